"""How long a training step of each row of a plan takes, so that rows can be trained for equal seconds."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from robopolicy.benchmark.learning import step_of
from robopolicy.benchmark.timing import interleave, summary
from robopolicy.errors import ConfigError
from robopolicy.evaluation.machine import stamp
from robopolicy.evaluation.plan import bases_of, training_of
from robopolicy.evaluation.results import Cell, Plan, read_plan
from robopolicy.learning.checkpoint import save_checkpoint
from robopolicy.learning.train import prepare
from robopolicy.learning.trainer import Trainer
from robopolicy.policies.policy import Policy
from robopolicy.registry import plain

__all__ = ["StepTimesConfig", "run_step_times"]


@dataclass(frozen=True, kw_only=True)
class StepTimesConfig:
    """The root of ``configs/step_times.yaml``."""

    only: tuple[str, ...]
    """Parts of a row's `<task>/<label>`; rows that have all of them are timed."""
    skip: str = "-seconds"
    plan: str = "results/plan.yaml"
    reference: str = "diffusion"
    seconds: float = 4.0
    rounds: int = 20
    device: str = "auto"
    out: str = "results/checks"

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.rounds < 1:
            raise ConfigError(
                f"step_times needs seconds > 0 and rounds >= 1, got {self.seconds}, {self.rounds}."
            )


def run_step_times(config: StepTimesConfig) -> tuple[Path, dict[str, Any]]:
    """Steps of all rows in turn, on the rows' own data; a row that builds on another's run has both's time.

    Raises:
        ConfigError: rows are of several tasks, or none is the reference.
    """
    torch.set_num_threads(1)
    plan = read_plan(config.plan)
    cells = _chosen(config, plan)
    with tempfile.TemporaryDirectory(prefix="robopolicy-") as directory:
        trainers = {name: _trainers(cell, plan, config.device, directory) for name, cell in cells.items()}
        calls = {f"{name} {i}": step_of(t) for name, own in trainers.items() for i, t in enumerate(own)}
        times = interleave(calls, seconds=config.seconds, rounds=config.rounds, calls=2)
    parts = {name: [summary(times[f"{name} {i}"]) for i in range(len(own))] for name, own in trainers.items()}
    ms = {name: sum(part["p50"] for part in found) for name, found in parts.items()}
    reference = next(name for name, cell in cells.items() if cell.policy == config.reference)
    seconds = trainers[reference][-1].config.steps * ms[reference]
    made = {
        "task": cells[reference].task,
        "reference": cells[reference].label,
        "seconds": seconds / 1e3,
        "rows": [
            {
                "policy": cells[name].label,
                "ms": ms[name],
                "steps_in_equal_seconds": round(seconds / ms[name]),
                "parts": found,
            }
            for name, found in parts.items()
        ],
        "config": plain(config),
    }
    path = Path(config.out) / f"step_times_{made['task']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**made, **stamp()}, indent=1) + "\n")
    return path, made


def _chosen(config: StepTimesConfig, plan: Plan) -> dict[str, Cell]:
    """The first cell of every row that is to be timed, by the row's name."""
    cells: dict[str, Cell] = {}
    for cell in (found for found in plan.cells() if not found.method):
        name = f"{cell.task}/{cell.label}"
        if all(part in name for part in config.only) and config.skip not in name:
            cells.setdefault(name, cell)
    policies, tasks = ({getattr(cell, of) for cell in cells.values()} for of in ("policy", "task"))
    if config.reference not in policies or len(tasks) != 1:
        raise ConfigError(
            f"step_times needs rows of one task, policy {config.reference} among them; "
            f"only={list(config.only)} finds {sorted(cells)}."
        )
    return cells


def _trainers(cell: Cell, plan: Plan, device: str, directory: str) -> list[Trainer]:
    """Those of the runs that a cell builds on, which are kept untrained, and its own."""
    found = []
    for run, base in bases_of(cell, plan).items():
        found.append(prepare(training_of(base, device, f"out={directory}/{run}"), progress=False))
        average = found[-1].average
        assert isinstance(average, Policy)
        save_checkpoint(Path(directory) / run, average)
    moved = [w.replace("outputs/", f"{directory}/outputs/", 1) for w in cell.settings if "=outputs/" in w]
    own = training_of(cell, device, f"out={directory}/{cell.task}/{cell.label}", *moved)
    return [*found, prepare(own, progress=False)]
