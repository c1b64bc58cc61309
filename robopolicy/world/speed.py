"""Imagined steps a second beside simulated ones: ``python -m robopolicy.world.speed <run> [<file.json>]``.

How long the training took stands beside them, as the run's log has it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robopolicy.benchmark.timing import interleave
from robopolicy.evaluation.machine import print_or_write, stamp
from robopolicy.seeding import episode_seeds
from robopolicy.vector import LaneVectorEnv
from robopolicy.world.imagined import ImaginedVectorEnv
from robopolicy.world.starts import Starts
from robopolicy.world.world import find_world, load_world

__all__ = ["BATCHES", "CHUNK", "main", "speed", "training_minutes"]

BATCHES = (1, 64, 1024)
CHUNK = 4


def speed(run: str | Path, *, seconds: float = 4.0, rounds: int = 5) -> dict[str, Any]:
    """Steps a second of each, taking turns on one core; chunks of 4 random actions, resets included."""
    torch.set_num_threads(1)
    world, starts = load_world(run), Starts.load(run)
    task = world.provenance.task
    assert task is not None
    lanes: dict[str, LaneVectorEnv] = {
        f"imagined {count}": ImaginedVectorEnv(world, starts, task, count, chunk=CHUNK) for count in BATCHES
    }
    lanes["simulated"] = LaneVectorEnv(task, 1, chunk=CHUNK)
    times = interleave({name: _stepper(envs) for name, envs in lanes.items()}, seconds=seconds, rounds=rounds)
    rates = {
        name: [lanes[name].num_envs * CHUNK / float(np.median(found)) for found in times[name] if found]
        for name in lanes
    }
    for envs in lanes.values():
        envs.close()
    simulated = rates["simulated"]
    return {
        "task": task.name,
        "denoising_steps": world.config.steps,
        "members": world.members,
        "parameters": sum(p.numel() for p in world.parameters()),
        "steps_per_second": {name: round(float(np.median(found))) for name, found in rates.items()},
        "times_the_simulator": {
            name: round(float(np.median([a / b for a, b in zip(found, simulated, strict=False)])), 2)
            for name, found in rates.items()
        },
        "training_minutes": training_minutes(find_world(run).parent),
        **stamp(),
    }


def training_minutes(run: Path) -> float:
    """Of a training run, from the speeds in its log."""
    batch = json.loads((run / "config.json").read_text())["trainer"]["batch_size"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = [(row["step"], row["samples_per_s"]) for row in rows if "samples_per_s" in row]
    before = [0, *(step for step, _ in logged)]
    seconds = sum((step - last) * batch / rate for (step, rate), last in zip(logged, before, strict=False))
    return round(seconds / 60, 1)


def _stepper(envs: LaneVectorEnv) -> Callable[[], None]:
    """Steps a chunk in every lane, after resetting those that ended."""
    rng, ended, used = np.random.default_rng(0), np.ones(envs.num_envs, bool), 0

    def step() -> None:
        nonlocal ended, used
        if ended.any():
            envs.reset(seed=episode_seeds("practice", envs.num_envs, used), options={"reset_mask": ended})
            used += envs.num_envs
        actions = rng.uniform(-1, 1, (envs.num_envs, CHUNK, envs.robot_spec.action.size))
        made = envs.step_chunk(actions.astype(np.float32))
        ended = made.terminated | made.truncated | made.lost

    return step


def main(arguments: list[str]) -> None:
    """Measure and print, or write to a file."""
    print_or_write("robopolicy.world.speed", speed, arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
