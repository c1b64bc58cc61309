"""Refinement runs side by side: ``python -m robopolicy.rl.runs <file.json> <run> <run> ...``.

Of every run what it does differently from the others, and its success on selection seeds, step by step. Runs
need not be finished.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from robopolicy.errors import ConfigError
from robopolicy.evaluation.machine import stamp
from robopolicy.evaluation.plots import read_series

__all__ = ["NAMES", "main", "side_by_side"]

NAMES = (
    "name",
    "out",
    "steps",
    "stop_at",
    "patience",
    "checkpoint",
    "workers",
    "log_every",
    "world_weights",
    "checkpoint_seconds",
)
"""Settings that do not change what is learned, or tell a reader nothing."""


def side_by_side(runs: Sequence[str | Path]) -> dict[str, Any]:
    """Settings in which the runs differ, and their curves; JSON-ready.

    Raises:
        ConfigError: a directory that holds no refinement, or runs on different tasks.
    """
    configs = {}
    for run in map(Path, runs):
        if not (run / "config.json").is_file() or not (run / "metrics.csv").is_file():
            raise ConfigError(f"{run} holds no refinement: config.json and metrics.csv are expected there.")
        configs[run] = json.loads((run / "config.json").read_text())
    tasks = {config["task"]["name"] for config in configs.values()}
    if len(tasks) > 1:
        raise ConfigError(f"The runs are of different tasks: {', '.join(sorted(tasks))}.")
    flat = {run: dict(_leaves(config)) for run, config in configs.items()}
    keys = sorted({key for settings in flat.values() for key in settings})
    varied = [key for key in keys if len({str(settings.get(key)) for settings in flat.values()}) > 1]
    rows = []
    for run, settings in flat.items():
        steps, rates = read_series(run / "metrics.csv")["success"]
        rows.append(
            {
                "run": run.parent.name,
                "settings": {key: settings[key] for key in varied if key in settings},
                "steps": steps,
                "success": rates,
                "episodes": settings["evaluate.episodes"],
            }
        )
    return {"task": tasks.pop(), "rows": rows, **stamp()}


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if not prefix and (key in NAMES or key == "task"):
            continue
        if prefix == "evaluate." and key != "episodes":
            continue
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def main(arguments: list[str]) -> None:
    """Write the file and print a line for each run."""
    if len(arguments) < 2:
        raise SystemExit("usage: python -m robopolicy.rl.runs <file.json> <run> <run> ...")
    found = side_by_side(arguments[1:])
    path = Path(arguments[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    for row in found["rows"]:
        print(f"{row['run']}: {', '.join(f'{rate:.0%}' for rate in row['success'])}")


if __name__ == "__main__":
    main(sys.argv[1:])
