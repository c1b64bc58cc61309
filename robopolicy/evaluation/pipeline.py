"""One checkpoint through everything: stages of command lines, run in order, and a table of what each brought.

A stage is a list of the same commands that people type. Its last ones measure what it made and leave
``<out>/<stage>/report/evaluation.json``, or ``<out>/<stage>/wire.json`` where the episodes ran on a robot.
At the end ``<out>`` has the table, a figure of it, and a film of the same episodes at every stage.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError, RobopolicyError, unknown
from robopolicy.evaluation.evaluate import Evaluation
from robopolicy.evaluation.machine import stamp
from robopolicy.evaluation.pipeline_film import write_stages_film
from robopolicy.evaluation.plots import pipeline_stages
from robopolicy.evaluation.statistics import paired_difference, wilson

__all__ = ["PipelineConfig", "markdown", "run_pipeline"]


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """The root of ``configs/pipeline.yaml``."""

    task: str
    out: str
    episodes: int
    """Report episodes after every stage, the same ones."""
    stages: Mapping[str, tuple[str, ...]]
    """Command lines of each, without ``python scripts/``; or modules, after ``-m``."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """What the lines of a stages file take besides, as `${values.seed}`."""
    until: str | None = None
    """The last stage to run."""
    results: str | None = None
    """A JSON file for the table, beside the one in `out`."""

    def __post_init__(self) -> None:
        if self.until is not None and self.until not in self.stages:
            raise ConfigError(unknown("stage", self.until, self.stages))


def run_pipeline(config: PipelineConfig) -> list[dict[str, Any]]:
    """Run what is not done yet and write the table after every stage, figure and film after the last.

    Returns:
        The rows of the table.

    Raises:
        RobopolicyError: a command failed; it is named, and the next run goes on with it.
    """
    out = Path(config.out)
    journal_file = out / "journal.json"
    journal: dict[str, float] = json.loads(journal_file.read_text()) if journal_file.is_file() else {}
    rows: list[dict[str, Any]] = []
    for number, (stage, lines) in enumerate(config.stages.items(), 1):
        print(f"\n{number}/{len(config.stages)}  {stage}", flush=True)
        for line in lines:
            if line in journal:
                print(f"     done: {line}", flush=True)
                continue
            print(f"     python {line if line.startswith('-m ') else f'scripts/{line}'}", flush=True)
            started = time.monotonic()
            _run(line)
            journal[line] = time.monotonic() - started
            _write(journal_file, journal)
        rows.append(_row(out, stage, sum(journal[line] for line in lines), rows))
        for target in {str(out / "pipeline.json"), config.results} - {None}:
            _write_table(Path(str(target)), config.task, config.values, rows)
        print(markdown(rows), flush=True)
        if stage == config.until:
            break
    pipeline_stages(rows, out / "stages.png")
    for sentence in write_stages_film(rows, out):
        print(sentence, flush=True)
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table for people."""
    head = ("Stage", "Success [95%]", "Against the stage before", "Against the first", "Practised steps",
            "Recorded episodes", "Milliseconds a chunk", "Minutes")  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        success = row["success"]
        cells = [
            row["stage"],
            f"{success['value']:.0%} [{success['low']:.0%}, {success['high']:.0%}] of {row['episodes']}",
            _points(row["gain"]),
            _points(row["total_gain"]),
            f"{row['practised_steps']:,}" + (" imagined" if row["imagined"] else ""),
            str(row["recorded_episodes"]),
            "-" if row.get("chunk_ms") is None else f"{row['chunk_ms']:.0f}",
            f"{row['seconds'] / 60:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _points(interval: Mapping[str, float] | None) -> str:
    if interval is None:
        return "-"
    return f"{100 * interval['value']:+.0f} [{100 * interval['low']:+.0f}, {100 * interval['high']:+.0f}]"


def _run(line: str) -> None:
    script, *words = shlex.split(line)
    scripts = Path(sys.argv[0]).resolve().parent
    program = [script] if script == "-m" else [str(scripts / script)]
    done = subprocess.run([sys.executable, *program, *words], check=False)
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode:
        raise RobopolicyError(f"This command failed, and running the pipeline again repeats it:\n  {line}")


def _row(out: Path, stage: str, seconds: float, earlier: list[dict[str, Any]]) -> dict[str, Any]:
    solved = _solved(out / stage)
    refined = out / stage / "run" / "refine.json"
    practised = json.loads(refined.read_text()) if refined.is_file() else {}
    run = out / stage / "run" / "config.json"
    settings = json.loads(run.read_text()) if run.is_file() else {}
    return {
        "stage": stage,
        "episodes": len(solved),
        "success": asdict(wilson(sum(solved.values()), len(solved))),
        "gain": _gain(solved, earlier[-1]["solved"]) if earlier else None,
        "total_gain": _gain(solved, earlier[0]["solved"]) if earlier else None,
        "practised_steps": int(practised.get("env_steps", 0)),
        "imagined": bool(settings.get("env")) and bool(practised),
        "recorded_episodes": sum(len(EpisodeStore.open(store)) for store in (out / stage).glob("*.zarr")),
        "chunk_ms": _chunk_ms(out / stage),
        "seconds": max(seconds, _played(out / stage)),
        "solved": solved,
    }


def _solved(directory: Path) -> dict[str, bool]:
    """Whether each seed's episode succeeded."""
    wire = directory / "wire.json"
    if wire.is_file():
        conditions = json.loads(wire.read_text())["conditions"]
        rows = [row for condition in conditions.values() for row in condition["episodes"]]
        return {str(row["seed"]): bool(row["success"]) for row in rows}
    if not (directory / "report" / "evaluation.json").is_file():
        raise RobopolicyError(
            f"{directory} has neither report/evaluation.json nor wire.json: a stage ends by measuring."
        )
    return {str(row.seed): row.success for row in Evaluation.load(directory / "report").rows}


def _played(directory: Path) -> float:
    """Seconds of a robot's episodes, which an interrupted command has played before."""
    wire = directory / "wire.json"
    conditions = json.loads(wire.read_text())["conditions"] if wire.is_file() else {}
    return sum(row.get("seconds", 0.0) for found in conditions.values() for row in found["episodes"])


def _chunk_ms(directory: Path) -> float | None:
    """Median time of a chunk: of one alone, or on a robot from its observation to its submission."""
    wire, alone = directory / "wire.json", directory / "report" / "sampling.json"
    if wire.is_file():
        conditions = json.loads(wire.read_text())["conditions"].values()
        return statistics.median(row["inference_ms"] for found in conditions for row in found["episodes"])
    return float(json.loads(alone.read_text())["ms"]) if alone.is_file() else None


def _gain(after: Mapping[str, bool], before: Mapping[str, bool]) -> dict[str, float] | None:
    shared = [seed for seed in after if seed in before]
    if not shared:
        return None
    pair = [[after[seed] for seed in shared]], [[before[seed] for seed in shared]]
    return asdict(paired_difference(*pair).interval)


def _write_table(path: Path, task: str, values: Mapping[str, Any], rows: list[dict[str, Any]]) -> None:
    """What stands in the file already keeps the stamp of the run that measured it."""
    if path.is_file() and json.loads(path.read_text())["stages"][: len(rows)] == rows:
        return
    _write(path, {"task": task, "values": dict(values), "stages": rows, **stamp()})


def _write(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(values, indent=1) + "\n")
    os.replace(partial, path)
