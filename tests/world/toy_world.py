"""Recorded episodes of the toy task, and small world models of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robopolicy.data.store import EpisodeStore
from robopolicy.evaluation.baselines import RandomActor
from robopolicy.evaluation.collect import collect
from robopolicy.registry import parse
from robopolicy.rollout import Actor, ExpertActor
from robopolicy.task import Task
from robopolicy.world.train import TrainWorldConfig, WorldTraining, prepare
from tests.rl.toy_policy import HARD
from tests.toy_env import toy_spec, toy_task

TASK = toy_task(horizon=16, success_hold=2, noise=0.3, env=HARD)
SMALL: dict[str, Any] = {"width": 64, "blocks": 1, "success_width": 32, "history": 3, "unroll": 1}
SMALL |= {"steps": 3, "location": -0.4}


def recorded(
    path: Path, actor: Actor | None = None, *, episodes: int = 40, task: Task = TASK
) -> EpisodeStore:
    """Episodes of the noisy expert, or of another actor."""
    collect(task, path, actor=actor or ExpertActor(4), episodes=episodes, lanes=20, workers=0, progress=False)
    return EpisodeStore.open(path)


def random_actor() -> RandomActor:
    return RandomActor(toy_spec().action, 4)


def training(
    data: list[Path], out: Path, *, steps: int = 600, validation: float = 0.25, **world: Any
) -> WorldTraining:
    """A small state model of these stores."""
    trainer = {
        "steps": steps,
        "batch_size": 128,
        "learning_rate": 3e-3,
        "warmup": 20,
        "validate_every": 10_000,
    }
    config = {
        "world": {"name": "state", **SMALL, **world},
        "trainer": trainer,
        "data": [str(path) for path in data],
        "validation": validation,
        "out": str(out),
        "device": "cpu",
    }
    return prepare(parse(TrainWorldConfig, config, "train_world"), progress=False)
