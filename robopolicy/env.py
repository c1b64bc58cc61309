"""What one robot environment offers. Implementations live outside the library (``envs/``, plugins, tests)."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np

from robopolicy.errors import MissingCapability
from robopolicy.registry import build, parse
from robopolicy.spec import Spec
from robopolicy.task import Task

__all__ = ["Expert", "Grasp", "Observation", "RobotEnv", "WrappedEnv", "make_env"]

Observation = dict[str, np.ndarray]


class Expert(Protocol):
    """A scripted demonstrator for one episode; made anew for every episode, so it may keep state."""

    def act(self, observation: Observation) -> np.ndarray:
        """The next action `[Da]`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Grasp:
    """How a gripper and the object that it is for stood to one another, step by step, in metres."""

    opening: np.ndarray
    """Between the fingers `[T]`."""
    distance: np.ndarray
    """From between the fingertips to the object's middle `[T]`."""
    height: np.ndarray
    """Of the object's middle `[T]`."""


class RobotEnv(gymnasium.Env[Observation, np.ndarray], abc.ABC):
    """A gymnasium environment with a `Spec`.

    The episode clock (horizon, what follows success) is not its business: `step` returns
    ``terminated=True`` only for failures the episode cannot recover from, ``truncated=False`` always, and
    ``info["success"]`` as a bool. ``reset(seed=s)`` fixes the episode completely, whatever came before.
    """

    robot_spec: Spec
    routes: tuple[str, ...] = ()
    """Names of the ways an episode can go, where the task has several equally good ones."""
    reset_options: frozenset[str] = frozenset()
    """Keys of `options` that `reset` understands."""

    def render_frame(self, camera: str = "", size: int = 256) -> np.ndarray:
        """A uint8 `[size, size, 3]` picture."""
        raise MissingCapability(f"{type(self).__name__} cannot render.")

    def expert(self, seed: int, settings: Mapping[str, Any]) -> Expert:
        """A scripted expert for the episode that was just reset."""
        raise MissingCapability(f"{type(self).__name__} has no scripted expert.")

    def route(self, episode: Mapping[str, np.ndarray]) -> str | None:
        """Which of `routes` an episode took, from its observations `[T, ...]`; None if it ended too early."""
        raise MissingCapability(f"{type(self).__name__} does not tell routes apart.")

    def grasp(self, episode: Mapping[str, np.ndarray]) -> Grasp:
        """How gripper and object stood to one another in an episode, from its observations `[T, ...]`."""
        raise MissingCapability(f"{type(self).__name__} does not tell how its gripper stands to an object.")

    def get_state(self) -> np.ndarray:
        """The full simulator state `[S]`, for exact replay."""
        raise MissingCapability(f"{type(self).__name__} does not expose its state.")

    def set_state(self, state: np.ndarray) -> Observation:
        """Go to a state from `get_state` and return the observation there."""
        raise MissingCapability(f"{type(self).__name__} does not expose its state.")


class WrappedEnv(RobotEnv):
    """What stands around an environment: all but `reset` and `step` is the environment's own."""

    def __init__(self, env: RobotEnv) -> None:
        self.env = env
        self.robot_spec, self.routes, self.reset_options = env.robot_spec, env.routes, env.reset_options
        self.observation_space, self.action_space = env.observation_space, env.action_space

    @property
    def unwrapped(self) -> gymnasium.Env[Any, Any]:
        """The environment itself."""
        return self.env.unwrapped

    def render_frame(self, camera: str = "", size: int = 256) -> np.ndarray:
        """The environment's own picture."""
        return self.env.render_frame(camera, size)

    def expert(self, seed: int, settings: Mapping[str, Any]) -> Expert:
        """The environment's own expert."""
        return self.env.expert(seed, settings)

    def route(self, episode: Mapping[str, np.ndarray]) -> str | None:
        """As the environment tells it."""
        return self.env.route(episode)

    def grasp(self, episode: Mapping[str, np.ndarray]) -> Grasp:
        """As the environment tells it."""
        return self.env.grasp(episode)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


def make_env(task: Task) -> RobotEnv:
    """A task's environment with its perturbations and goals. Its class takes ``(config, *, task)``."""
    from robopolicy.goals import GoalEnv
    from robopolicy.perturbation import Perturbation, perturbed

    perturbations = [parse(Perturbation, values, "task.perturb") for values in task.perturb]
    env = build("env", task.env, task=task)
    assert isinstance(env, RobotEnv)
    env = perturbed(env, perturbations)
    return GoalEnv(env, task.goals) if task.goals else env
