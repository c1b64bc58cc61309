"""Episodes of the toy task, good and bad, and values learned from them in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robopolicy.data.store import EpisodeStore
from robopolicy.evaluation.collect import collect
from robopolicy.policies.policy import Policy
from robopolicy.registry import parse
from robopolicy.rollout import PolicyActor
from robopolicy.values.train import TrainValueConfig, ValueTrainer, prepare
from tests.rl.toy_base import TASK, astray

CHUNK = 4
LEARNER = {"hidden": [64, 64], "layer_norm": True, "batch_size": 128, "learning_rate": 1e-3}


def wanderer(**changes: Any) -> Policy:
    """A policy whose chunks differ: some of them are good."""
    return astray(bias=0.0, spread=0.6, **changes)


def mixed(path: Path, episodes: int = 80) -> EpisodeStore:
    """What it does, successes and failures."""
    actor = PolicyActor(wanderer())
    collect(TASK, path, episodes=episodes, lanes=20, workers=0, progress=False, actor=actor, origin="toy")
    return EpisodeStore.open(path)


def trainer(path: Path | list[str], out: Path, *, preset: str = "iql", **changes: Any) -> ValueTrainer:
    """Values of chunks of four actions."""
    value = {
        "name": preset,
        "action_horizon": CHUNK,
        "gamma": 0.9,
        "learner": {"preset": preset, **LEARNER, **changes.pop("learner", {})},
        **changes.pop("value", {}),
    }
    settings = {"data": path if isinstance(path, list) else str(path), "out": str(out), "log_every": 100}
    config = parse(TrainValueConfig, {"value": value, **settings, **changes}, "train_value")
    return prepare(config, progress=False)
