"""The toy environment seen by a camera: where the goal is, only the picture tells."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from robopolicy.env import Observation
from robopolicy.registry import register
from robopolicy.spec import ObservationSpec, Spec
from robopolicy.task import Task
from tests.toy_env import ToyConfig, ToyEnv, ToyExpert, toy_spec

SIZE = 64


@register("env", "pixel_toy")
class PixelToyEnv(ToyEnv):
    """Observations "position" [2] and "top_image"; the expert knows the goal."""

    def __init__(self, config: ToyConfig, *, task: Task) -> None:
        super().__init__(config, task=task)
        toy = toy_spec()
        image = ObservationSpec(shape=(SIZE, SIZE, 3), dtype="uint8", kind="image", group="vision")
        observations = {"position": toy.observations["position"], "top_image": image}
        self.robot_spec = Spec(observations=observations, action=toy.action, control_hz=10.0)
        self.observation_space = spaces.Dict(
            {
                "position": spaces.Box(-np.inf, np.inf, (2,), np.float32),
                "top_image": spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8),
            }
        )

    def expert(self, seed: int, settings: Any) -> Any:
        return _Knowing(self, super().expert(seed, settings))

    def _observation(self) -> Observation:
        return {"position": self.position.astype(np.float32), "top_image": self.render_frame(size=SIZE)}


class _Knowing:
    def __init__(self, env: PixelToyEnv, expert: ToyExpert) -> None:
        self.env, self.toy = env, expert

    def act(self, observation: Observation) -> np.ndarray:
        return self.toy.act({"position": self.env.position, "goal": self.env.goal})


def pixel_task(**expert: Any) -> Task:
    """The toy task from pixels."""
    return Task(
        name="pixel_toy",
        env={"name": "pixel_toy"},
        horizon=30,
        success_hold=3,
        instruction="go to the goal",
        expert=expert,
    )
