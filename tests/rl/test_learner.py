"""What the learning process does, in this one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robopolicy.errors import ConfigError
from robopolicy.learning.checkpoint import read_tensors
from robopolicy.registry import build
from robopolicy.rl.learner import ACTOR, STATUS, Absent, Worker
from robopolicy.task import Task
from tests.rl.toy_base import LEARNER, astray

SETTINGS = {"warmup": 20, "update_ratio": 0.5, "force": True, "learner": {**LEARNER, "batch_size": 16}}


def worker(directory: Path, **changes: Any) -> Worker:
    base = astray()
    envs = Absent(Task(name="none", env={"name": "none"}, horizon=1), base.spec, base.action_horizon)
    method = {"name": "dsrl_sac", **SETTINGS, **changes}
    refiner = build("method", method, policy=base, envs=envs, seed=0)
    directory.mkdir(parents=True, exist_ok=True)
    return Worker(refiner, directory, seed=0)


def rows(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(count)
    seen = {
        f"{when}.{key}": rng.normal(size=(count, 1, 2)).astype(np.float32)
        for when in ("observation", "next_observation")
        for key in ("position", "goal")
    }
    return {
        **seen,
        "action": rng.normal(size=(count, 4, 2)).astype(np.float32),
        "squashed": rng.uniform(-0.9, 0.9, size=(count, 8)).astype(np.float32),
        "reward": rng.normal(size=count).astype(np.float32),
        "discount": np.full(count, 0.9, np.float32),
        "sent": rng.normal(size=(count, 4, 3)),
        "reasons": np.full((count, 4), 8),
    }


class Told:
    """A pipe with messages in it."""

    def __init__(self, *messages: Any) -> None:
        self.messages = [*messages, None]

    def poll(self, timeout: float) -> bool:
        return not timeout or bool(self.messages)

    def recv(self) -> Any:
        return self.messages.pop(0)


class Patient(Told):
    """One that says nothing more while there are updates to make."""

    def poll(self, timeout: float) -> bool:
        return timeout > 0


def test_updates_are_those_that_are_due(tmp_path: Path) -> None:
    made = worker(tmp_path)
    made.run(Patient((rows(20), 10), (rows(10), 30), (rows(10), 40)))  # type: ignore[arg-type]
    # While warming up nothing is due: the second message is judged by what was known before it.
    assert made.rows == 40
    assert made.updates == 5
    status = json.loads((tmp_path / STATUS).read_text())
    assert (status["rows"], status["updates"]) == (40, 5)
    assert np.isfinite(status["critic_loss"])
    for name, value in read_tensors(tmp_path / ACTOR).items():
        torch.testing.assert_close(value, made.refiner.learner.actor.state_dict()[name])


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    first = worker(tmp_path)
    first.run(Patient((rows(30), 30), (rows(9), 40)))  # type: ignore[arg-type]
    second = worker(tmp_path)
    assert (second.rows, second.updates, second.owed) == (39, 4, 0.5)
    assert second.refiner.env_steps == 40
    assert len(second.refiner.replay) == 39
    again, kept = second.refiner.tensors(), first.refiner.tensors()
    assert again.keys() == kept.keys()
    assert "replay.rows.sent" in kept
    assert "replay.rows.reasons" in kept
    for name in kept:
        torch.testing.assert_close(again[name], kept[name])


def test_nobody_practises_there(tmp_path: Path) -> None:
    made = worker(tmp_path)
    with pytest.raises(ConfigError, match="Nobody practises"):
        made.refiner.advance()
