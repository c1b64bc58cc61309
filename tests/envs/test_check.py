"""`check` accepts a sound environment and explains each way of being unsound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from envs.check import assert_ok, check
from robopolicy.errors import SpecMismatch
from robopolicy.task import Task
from tests.toy_env import ToyConfig, ToyEnv


class Broken(ToyEnv):
    """A toy environment with one fault."""

    fault = ""

    def __init__(self, fault: str) -> None:
        super().__init__(ToyConfig(), task=Task(name="toy", env={"name": "toy"}, horizon=9))
        self.fault = fault
        self.age = 0
        self.buffer = np.zeros(2, np.float32)
        if fault == "observation space":
            self.observation_space = spaces.Dict({"position": spaces.Box(-1, 1, (3,), np.float32)})
        elif fault == "action space":
            self.action_space = spaces.Box(-2, 2, (2,), np.float32)
        elif fault == "no spec":
            self.robot_spec = None  # type: ignore[assignment]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        observation, info = super().reset(seed=0 if self.fault == "one episode" else seed, options=options)
        self.age += 1
        if self.fault == "history":
            observation["goal"] = observation["goal"] + np.float32(self.age)
        return observation, info

    def step(self, action: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        if self.fault == "drift":
            action = action + 0.01 * self.age
        observation, reward, terminated, truncated, info = super().step(action)
        outcome: list[Any] = [observation, reward, terminated, truncated, info]
        if self.fault == "dtype":
            outcome[0] = {key: value.astype(np.float64) for key, value in observation.items()}
        elif self.fault == "key":
            del observation["goal"]
        elif self.fault == "nan":
            observation["goal"][0] = np.nan
        elif self.fault == "success":
            info["success"] = np.bool_(True)
        elif self.fault == "clock":
            outcome[3] = True
        elif self.fault == "reward":
            outcome[1] = float("inf")
        elif self.fault == "action":
            action *= 0
        elif self.fault == "tuple":
            outcome.pop()
        return tuple(outcome)  # type: ignore[return-value]


def test_a_sound_environment_passes() -> None:
    assert check(Broken("")) == []
    assert_ok(Broken(""))


@pytest.mark.parametrize(
    "fault, explained",
    [
        ("no spec", "robot_spec must be a Spec"),
        ("observation space", "observation_space has keys ['position']"),
        ("action space", "different bounds"),
        ("one episode", "Every episode is the same"),
        ("history", "goal differ right after reset"),
        ("drift", "position differ 1 equal actions after reset"),
        ("dtype", "'goal' is float64 (2,), robot_spec says float32 (2,)"),
        ("key", "step returns keys ['position']"),
        ("nan", "'goal' has values that are not finite"),
        ("success", "info['success'] must be a bool"),
        ("clock", "truncated False"),
        ("reward", "finite Python number"),
        ("action", "changes the action array"),
        ("tuple", "step must return (observation, reward"),
    ],
)
def test_every_fault_is_explained(fault: str, explained: str) -> None:
    found = check(Broken(fault))
    assert any(explained in line for line in found), found
    with pytest.raises(SpecMismatch, match="breaks the contract"):
        assert_ok(Broken(fault))
