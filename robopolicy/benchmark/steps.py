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
from robopolicy.evaluation.results import Cell, read_plan
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
    cells: dict[str, Cell] = {}
    for cell in (found for found in plan.cells() if not found.method):
        name = f"{cell.task}/{cell.label}"
        if all(part in name for part in config.only) and config.skip not in name:
            cells.setdefault(name, cell)
    policies = [cell.policy for cell in cells.values()]
    tasks = {cell.task for cell in cells.values()}
    if config.reference not in policies or len(tasks) != 1:
        raise ConfigError(
            f"step_times needs rows of one task, policy {config.reference} among them; "
            f"only={list(config.only)} finds {sorted(cells)}."
        )
    with tempfile.TemporaryDirectory(prefix="robopolicy-") as directory:
        trainers: dict[str, list[Trainer]] = {}
        for label, cell in cells.items():
            bases = []
            for run, base in bases_of(cell, plan).items():
                bases.append(
                    prepare(training_of(base, config.device, f"out={directory}/{run}"), progress=False)
                )
                average = bases[-1].average
                assert isinstance(average, Policy)
                save_checkpoint(Path(directory) / run, average)
            words = [f"out={directory}/{label}", *(word.replace("outputs/", f"{directory}/outputs/", 1)
                     for word in cell.settings if "=outputs/" in word)]  # fmt: skip
            trainers[label] = [*bases, prepare(training_of(cell, config.device, *words), progress=False)]
        calls = {f"{label} {i}": step_of(t) for label, own in trainers.items() for i, t in enumerate(own)}
        times = interleave(calls, seconds=config.seconds, rounds=config.rounds, calls=2)
    parts = {name: [summary(times[f"{name} {i}"]) for i in range(len(own))] for name, own in trainers.items()}
    ms = {name: sum(part["p50"] for part in found) for name, found in parts.items()}
    reference = next(name for name, cell in cells.items() if cell.policy == config.reference)
    seconds = trainers[reference][-1].config.steps * ms[reference]
    rows = [
        {
            "policy": cells[name].label,
            "ms": ms[name],
            "steps_in_equal_seconds": round(seconds / ms[name]),
            "parts": found,
        }
        for name, found in parts.items()
    ]
    task = tasks.pop()
    made = {
        "task": task,
        "reference": cells[reference].label,
        "seconds": seconds / 1e3,
        "rows": rows,
        "config": plain(config),
    }
    path = Path(config.out) / f"step_times_{task}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**made, **stamp()}, indent=1) + "\n")
    return path, made
