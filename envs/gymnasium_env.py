"""Any registered gymnasium environment with box spaces behind `RobotEnv`."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from envs.spaces import camera_specs, checked, spaces_of
from robopolicy.env import Observation, RobotEnv
from robopolicy.errors import ConfigError, MissingCapability
from robopolicy.registry import register
from robopolicy.spec import ActionSpec, ObservationSpec, Spec
from robopolicy.task import Task

__all__ = ["GymnasiumConfig", "GymnasiumEnv"]


@dataclass(frozen=True, kw_only=True)
class GymnasiumConfig:
    """Which environment, and how its success is known."""

    id: str
    """As for `gymnasium.make`; ``module:Id-v0`` imports a module that registers it."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    success: str = "success"
    """The key of `info` that tells success; where it is missing, there was none."""
    goal: float | None = None
    """Instead: an episode succeeds once its rewards add up to this."""
    control_hz: float | None = None
    """Control steps a second; from the environment's `render_fps` when not given."""


@register("env", "gymnasium")
class GymnasiumEnv(RobotEnv):
    """A gymnasium environment; a box observation is called "state". Its own time limit is removed."""

    def __init__(self, config: GymnasiumConfig, *, task: Task) -> None:
        self.config = config
        try:
            self._env = _make(config)
        except (gymnasium.error.Error, ModuleNotFoundError, TypeError) as error:
            raise ConfigError(f"gymnasium id {config.id!r}: {error}") from error
        observations = _observation_specs(config.id, self._env.observation_space)
        camera_specs(task, ())  # refuses a task that names cameras: gymnasium has none by name
        self._box = _action_box(config.id, self._env.action_space)
        hertz = config.control_hz or self._env.metadata.get("render_fps")
        if not hertz:
            raise ConfigError(f"gymnasium id {config.id!r} does not say its rate: set env.control_hz.")
        action = ActionSpec(
            names=tuple(f"action_{i}" for i in range(self._box.shape[0])),
            low=tuple(float(v) for v in self._box.low),
            high=tuple(float(v) for v in self._box.high),
        )
        self.robot_spec = Spec(observations=observations, action=action, control_hz=float(hertz))
        self.observation_space, self.action_space = spaces_of(self.robot_spec)
        self._paid = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        # Seeding the inner environment every time makes an episode depend on nothing that came before.
        observation, info = self._env.reset(seed=int(self.np_random.integers(2**31)), options=options)
        self._paid = 0.0
        return self._observe(observation), {"success": self._succeeded(info)}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One step, with the action clipped to its bounds.

        Raises:
            SpecMismatch: an action of another shape or with values that are not finite.
        """
        action = np.clip(checked(action, self.robot_spec.action), self._box.low, self._box.high)
        observation, reward, terminated, _, info = self._env.step(action.astype(self._box.dtype))
        self._paid += float(reward)
        success = self._succeeded(info)
        return self._observe(observation), float(reward), bool(terminated), False, {"success": success}

    def render_frame(self, camera: str = "", size: int = 256) -> np.ndarray:
        """A uint8 `[size, size, 3]` picture from the environment's own camera, squeezed to a square."""
        if camera:
            raise ConfigError(f"{self.config.id} has one camera, without a name; got {camera!r}.")
        if self._env.render_mode is None:
            raise MissingCapability(f"{self.config.id} cannot render to an array.")
        if hasattr(self._env.unwrapped, "mujoco_renderer") and "MUJOCO_GL" not in os.environ:
            from envs.rendering import backend

            os.environ["MUJOCO_GL"] = backend()  # gymnasium reads it when it draws for the first time
        frame = np.asarray(self._env.render())
        rows, columns = (np.arange(size) * n // size for n in frame.shape[:2])
        return np.ascontiguousarray(frame[rows][:, columns].astype(np.uint8))

    def close(self) -> None:
        """Close the inner environment."""
        self._env.close()

    def _succeeded(self, info: Mapping[str, Any]) -> bool:
        if self.config.goal is not None:
            return self._paid >= self.config.goal
        return bool(info.get(self.config.success, False))

    def _observe(self, observation: Any) -> Observation:
        named = observation if isinstance(observation, Mapping) else {"state": observation}
        return {key: np.asarray(named[key], spec.dtype) for key, spec in self.robot_spec.observations.items()}


def _make(config: GymnasiumConfig) -> gymnasium.Env[Any, Any]:
    module, _, name = config.id.rpartition(":")
    if module:
        importlib.import_module(module)
    creator: Any = gymnasium.spec(name).entry_point
    if isinstance(creator, str):
        creator = gymnasium.envs.registration.load_env_creator(creator)
    modes = (getattr(creator, "metadata", None) or {}).get("render_modes", ())
    mode = {"render_mode": "rgb_array"} if "rgb_array" in modes else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about metadata that this adapter does without
        return gymnasium.make(
            name, max_episode_steps=-1, disable_env_checker=True, **{**mode, **config.kwargs}
        )


def _observation_specs(name: str, space: gymnasium.Space[Any]) -> dict[str, ObservationSpec]:
    boxes = space.spaces if isinstance(space, gymnasium.spaces.Dict) else {"state": space}
    found = {}
    for key, box in boxes.items():
        if not isinstance(box, gymnasium.spaces.Box):
            raise ConfigError(f"gymnasium id {name!r}: observation {key!r} must be a Box, got {box}.")
        image = box.dtype == np.uint8 and len(box.shape) == 3
        found[key] = ObservationSpec(
            shape=tuple(box.shape),
            dtype="uint8" if image else "float32",
            kind="image" if image else "state",
        )
    return found


def _action_box(name: str, space: gymnasium.Space[Any]) -> gymnasium.spaces.Box:
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        raise ConfigError(f"gymnasium id {name!r}: the action must be a Box with one axis, got {space}.")
    return space
