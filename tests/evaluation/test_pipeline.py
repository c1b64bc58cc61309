"""Stages of commands: run once, resumed after a failure, and measured against each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from robopolicy.compose import compose
from robopolicy.errors import ConfigError, RobopolicyError
from robopolicy.evaluation import pipeline
from robopolicy.evaluation.evaluate import EpisodeRow, Evaluation
from robopolicy.evaluation.pipeline import PipelineConfig, markdown, run_pipeline
from tests.commands import run
from tests.toy_env import toy_task


def evaluation(directory: Path, won: int, count: int = 20) -> None:
    rows = [
        EpisodeRow(index=i, seed=3_000_000 + i, success=i < won, success_final=i < won, steps=5,
                   first_success=5, total_reward=0.0)
        for i in range(count)
    ]  # fmt: skip
    Evaluation(task=toy_task(), block="report", rows=tuple(rows), wall_seconds=1.0, lanes=1, workers=0).save(
        directory
    )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Commands of the form "measure <directory> <successes>", "wire <directory> <successes>" or "break"."""
    called: list[str] = []

    def act(line: str) -> None:
        called.append(line)
        verb, *words = line.split()
        if verb == "break":
            raise RobopolicyError("it breaks")
        directory = Path(words[0])
        directory.mkdir(parents=True, exist_ok=True)
        if verb == "measure":
            evaluation(directory / "report", int(words[1]))
        else:
            rows = [{"seed": 3_000_000 + i, "success": i < int(words[1])} for i in range(20)]
            (directory / "wire.json").write_text(json.dumps({"conditions": {"as is": {"episodes": rows}}}))

    monkeypatch.setattr(pipeline, "_run", act)
    return called


def configured(out: Path, **changes: Any) -> PipelineConfig:
    stages = {
        "cloned": (f"measure {out}/cloned 6",),
        "practised": (f"measure {out}/practised 18",),
        "deployed": (f"wire {out}/deployed 17",),
    }
    values: dict[str, Any] = {"task": "t", "out": str(out), "episodes": 20, "stages": stages}
    return PipelineConfig(**(values | changes))


def test_every_stage_is_compared_with_the_one_before_and_with_the_first(
    tmp_path: Path, calls: list[str]
) -> None:
    rows = run_pipeline(configured(tmp_path, results=str(tmp_path / "copy.json")))
    assert [row["success"]["value"] for row in rows] == [0.3, 0.9, 0.85]
    assert rows[0]["gain"] is None
    assert rows[1]["gain"]["value"] == pytest.approx(0.6)
    assert rows[1]["gain"]["low"] > 0
    assert rows[2]["gain"]["value"] == pytest.approx(-0.05)
    assert rows[2]["total_gain"]["value"] == pytest.approx(0.55)
    saved = json.loads((tmp_path / "copy.json").read_text())
    assert saved["stages"] == rows
    assert "commit" in saved
    assert "+60 [" in markdown(rows)


def test_what_is_done_is_not_done_again_and_a_failure_is_gone_on_from(
    tmp_path: Path, calls: list[str]
) -> None:
    stages = {"cloned": (f"measure {tmp_path}/cloned 6", "break"), "end": (f"measure {tmp_path}/end 9",)}
    for _ in range(2):
        with pytest.raises(RobopolicyError, match="breaks"):
            run_pipeline(configured(tmp_path, stages=stages))
    assert [line.split()[0] for line in calls] == ["measure", "break", "break"]
    run_pipeline(configured(tmp_path, stages={**stages, "cloned": stages["cloned"][:1]}))
    assert len(calls) == 4


def test_it_stops_where_it_is_told(tmp_path: Path, calls: list[str]) -> None:
    assert len(run_pipeline(configured(tmp_path, until="practised"))) == 2
    with pytest.raises(ConfigError, match="Did you mean 'deployed'"):
        configured(tmp_path, until="deploy")


def test_a_stage_that_measures_nothing_is_named(tmp_path: Path, calls: list[str]) -> None:
    with pytest.raises(RobopolicyError, match="empty has neither"):
        run_pipeline(configured(tmp_path, stages={"empty": ()}))


def test_the_shipped_stages_are_commands_that_compose() -> None:
    settings = compose("pipeline")
    for lines in settings["stages"].values():
        for line in lines:
            script, *words = line.split()
            compose(script.removesuffix(".py"), words)


@pytest.mark.slow
@pytest.mark.sim
def test_from_commands_to_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two real stages on a small task; a second run finds everything done."""
    out = tmp_path / "cloned"
    lines = [
        f"collect.py task=avoidance episodes=4 workers=0 out={out}/demonstrations.zarr",
        f"train.py task=avoidance data={out}/demonstrations.zarr out={out}/run trainer.steps=10 validation=0",
        f"evaluate.py checkpoint={out}/run episodes=4 workers=0 video=0 out={out}/report",
    ]
    quoted = "[" + ",".join(f"'{line}'" for line in lines) + "]"
    words = [f"out={tmp_path}", "until=cloned", "episodes=4", f"stages.cloned={quoted}"]
    monkeypatch.setattr("sys.argv", [str(Path(__file__).parents[2] / "scripts" / "pipeline.py")])
    run("pipeline", *words)
    (row,) = json.loads((tmp_path / "pipeline.json").read_text())["stages"]
    assert row["episodes"] == row["recorded_episodes"] == 4
    assert row["seconds"] > 0
    run("pipeline", *words)
    assert json.loads((tmp_path / "pipeline.json").read_text())["stages"] == [row]
