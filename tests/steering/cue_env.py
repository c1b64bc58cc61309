"""A light says left or right, goes out, and everything after depends on remembering it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from robopolicy.env import Observation, RobotEnv
from robopolicy.registry import register
from robopolicy.seeding import rng
from robopolicy.spec import ActionPart, ActionSpec, ObservationSpec, Spec
from robopolicy.task import Task

STEPS = 24
SPEC = Spec(
    observations={"light": ObservationSpec(shape=(1,))},
    action=ActionSpec(
        names=("lever",),
        low=(-1.2,),
        high=(1.2,),
        representation="joint_position",
        parts=(ActionPart(kind="joint", size=1),),
    ),
    control_hz=10.0,
)


@dataclass(frozen=True, kw_only=True)
class CueConfig:
    shown: int = 3
    """Observations with the light on."""


@register("env", "cue")
class CueEnv(RobotEnv):
    """Success is having held the lever on the light's side in every step; nothing else is observed."""

    def __init__(self, config: CueConfig, *, task: Task) -> None:
        self.config, self.robot_spec = config, SPEC
        self.observation_space = spaces.Dict({"light": spaces.Box(-1, 1, (1,), np.float32)})
        self.action_space = spaces.Box(-1.2, 1.2, (1,), np.float32)
        self.side, self.time, self.right = 1.0, 0, True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        self.side, self.time, self.right = side_of(int(seed or 0)), 0, True
        return self._observation(), {"success": False}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self.time += 1
        self.right &= bool(action[0] * self.side > 0)
        success = self.right and self.time == STEPS
        return self._observation(), float(success), False, False, {"success": success}

    def expert(self, seed: int, settings: Mapping[str, Any]) -> CueExpert:
        return CueExpert(seed)

    def _observation(self) -> Observation:
        shown = self.time < self.config.shown
        return {"light": np.array([self.side if shown else 0.0], np.float32)}


class CueExpert:
    """Knows the side, and holds it."""

    def __init__(self, seed: int) -> None:
        self.side, self.noise = side_of(seed), rng(seed, "cue expert")

    def act(self, observation: Observation) -> np.ndarray:
        return np.array([self.side + 0.05 * self.noise.standard_normal()], np.float32)


def side_of(seed: int) -> float:
    """-1 or 1."""
    return float(rng(seed, "cue").choice([-1.0, 1.0]))


def cue_task() -> Task:
    """Episodes of `STEPS` steps."""
    return Task(name="cue", env={"name": "cue"}, horizon=STEPS, success_hold=0)
