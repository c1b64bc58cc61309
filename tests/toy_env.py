"""A toy environment for tests: a point on a table goes to a goal. No simulator, microseconds a step.

Workers import this module by name, which registers the environment in their process too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from robopolicy.env import Observation, RobotEnv
from robopolicy.errors import ConfigError
from robopolicy.registry import register
from robopolicy.seeding import rng
from robopolicy.spec import ActionPart, ActionSpec, ObservationSpec, Spec
from robopolicy.task import Task


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    speed: float = 0.1
    """Distance a full action moves the point in one step."""
    reach: float = 0.1
    """Success is being this close to the goal."""
    edge: float = 2.0
    """Half-width of the table: beyond it the point has fallen off, which ends the episode."""


@register("env", "toy")
class ToyEnv(RobotEnv):
    """Observations "position" [2] and "goal" [2]; the action [2] in [-1, 1] is a displacement."""

    def __init__(self, config: ToyConfig, *, task: Task) -> None:
        self.config = config
        self.robot_spec = toy_spec()
        self.observation_space = spaces.Dict(
            {key: spaces.Box(-np.inf, np.inf, (2,), np.float32) for key in ("position", "goal")}
        )
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.position, self.goal = np.zeros(2), np.zeros(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        generator = rng(int(seed or 0), "toy")
        self.position = generator.uniform(-0.8, 0.8, 2)
        self.goal = generator.uniform(-0.8, 0.8, 2)
        return self._observation(), {"success": self._success()}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self.position = self.position + self.config.speed * np.clip(action, -1, 1).astype(np.float64)
        success = self._success()
        fallen = bool((np.abs(self.position) > self.config.edge).any())
        return self._observation(), float(success), fallen, False, {"success": success}

    def render_frame(self, camera: str = "", size: int = 256) -> np.ndarray:
        picture = np.full((size, size, 3), 240, np.uint8)
        rows, columns = np.mgrid[:size, :size]
        for centre, colour in ((self.goal, (60, 170, 90)), (self.position, (40, 80, 200))):
            x, y = (centre + 1) / 2 * size
            picture[(columns - x) ** 2 + (rows - (size - y)) ** 2 < (0.05 * size) ** 2] = colour
        return picture

    def expert(self, seed: int, settings: Mapping[str, Any]) -> ToyExpert:
        return ToyExpert(self.config, seed, **settings)

    def get_state(self) -> np.ndarray:
        return np.concatenate([self.position, self.goal])

    def set_state(self, state: np.ndarray) -> Observation:
        self.position, self.goal = state[:2].copy(), state[2:].copy()
        return self._observation()

    def _success(self) -> bool:
        return bool(np.linalg.norm(self.goal - self.position) < self.config.reach)

    def _observation(self) -> Observation:
        return {"position": self.position.astype(np.float32), "goal": self.goal.astype(np.float32)}


class ToyExpert:
    """Goes straight, or along x first ("corner"); `noise` disturbs it, `lazy` is how often it fails."""

    def __init__(
        self, config: ToyConfig, seed: int, mode: str = "straight", noise: float = 0.0, lazy: float = 0.0
    ) -> None:
        if mode not in ("straight", "corner"):
            raise ConfigError(f"Unknown mode {mode!r}. Valid: corner, straight.")
        self.speed, self.mode, self.noise = config.speed, mode, noise
        self.generator = rng(seed, "toy expert")
        self.asleep = self.generator.random() < lazy

    def act(self, observation: Observation) -> np.ndarray:
        gap = (observation["goal"] - observation["position"]) / self.speed
        if self.mode == "corner" and abs(gap[0]) > 0.5:
            gap[1] = 0.0
        action = gap / max(1.0, float(np.abs(gap).max())) + self.noise * self.generator.standard_normal(2)
        return np.clip(action * (not self.asleep), -1, 1).astype(np.float32)


def toy_spec() -> Spec:
    """Spec of the toy environment."""
    return Spec(
        observations={
            "position": ObservationSpec(shape=(2,), unit="m", group="proprioception"),
            "goal": ObservationSpec(shape=(2,), unit="m", group="object"),
        },
        action=ActionSpec(
            names=("x", "y"),
            low=(-1.0, -1.0),
            high=(1.0, 1.0),
            representation="toy_delta",
            parts=(ActionPart(kind="position", size=2),),
        ),
        control_hz=10.0,
    )


def toy_task(
    *, horizon: int = 30, success_hold: int = 3, env: Mapping[str, Any] | None = None, **expert: Any
) -> Task:
    """The toy task; keywords that are not the task's own are settings of the expert."""
    return Task(
        name="toy",
        env={"name": "toy", **(env or {})},
        horizon=horizon,
        success_hold=success_hold,
        instruction="go to the goal",
        expert=expert,
    )
