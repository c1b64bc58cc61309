"""From a script of goals to actions: proportional control, a person's unsteadiness, two controllers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from envs.experts.hand import Goal, Hand, rotation_vector
from envs.experts.tasks import SCRIPTS, Style
from envs.osc import rotation_matrix
from envs.robosuite_env import RobosuiteEnv
from robopolicy import seeding
from robopolicy.env import Observation
from robopolicy.errors import ConfigError, MissingCapability, unknown

__all__ = ["STRATEGIES", "ExpertConfig", "ScriptedExpert", "make"]

STRATEGIES = ("direct", "over", "arc")
_METRES, _RADIANS = 0.05, 0.5  # what an action of 1 asks for
_GAIN = 1.4  # displacement asked for, per displacement wanted: higher overshoots at 20 Hz
_NOISE_MEMORY = 0.7


@dataclass(frozen=True, kw_only=True)
class ExpertConfig:
    """How demonstrations vary."""

    mode: str = "mixed"
    """"direct": straight to the grasp; "over": above the object, then down; "arc": round one side;
    "mixed": one of them, drawn for each episode."""
    noise: float = 0.08
    """Standard deviation of the unsteadiness added to every arm dimension of the action; the script sees
    where that leads and corrects it."""
    pauses: float = 0.2
    """Chance that an episode contains a short pause."""

    def __post_init__(self) -> None:
        if self.mode not in (*STRATEGIES, "mixed"):
            raise ConfigError(unknown("expert mode", self.mode, (*STRATEGIES, "mixed")))
        if not 0 <= self.noise <= 0.5 or not 0 <= self.pauses <= 1:
            raise ConfigError(
                f"An expert needs noise in [0, 0.5] and pauses in [0, 1]: {self.noise}, {self.pauses}."
            )


class ScriptedExpert:
    """Runs one script for one episode."""

    def __init__(self, env: RobosuiteEnv, config: ExpertConfig, seed: int) -> None:
        self._rng = seeding.rng(seed, "expert")
        mode = config.mode if config.mode != "mixed" else str(self._rng.choice(STRATEGIES))
        self._hand = Hand(env)
        style = Style.draw(mode, self._rng)
        self.strategy = mode
        self._script = SCRIPTS[env.config.task](self._hand, style)
        self._absolute = env.config.controller == "absolute"
        self._noise, self._wander = config.noise, np.zeros(6)
        pausing = self._rng.random() < config.pauses
        self._pause_at = int(self._rng.integers(3, 60)) if pausing else -1
        self._pause_left = 0
        self._step = 0
        self._last: Goal | None = None

    def act(self, observation: Observation) -> np.ndarray:
        """The next action `[7]`, float32."""
        del observation  # the script reads the simulation
        if self._step == self._pause_at:
            self._pause_left = int(self._rng.integers(3, 8))
        self._step += 1
        if self._pause_left > 0 and self._last is not None:
            self._pause_left -= 1
            return self._action(np.zeros(6), self._last.gripper)
        goal = next(self._script)
        self._last = goal
        return self._action(self._toward(goal) + self._unsteadiness(goal.careful), goal.gripper)

    def _toward(self, goal: Goal) -> np.ndarray:
        away, turn = self._hand.error(goal.pose)
        move = _saturate(away * (_GAIN / _METRES), goal.speed)
        return np.concatenate([move, _saturate(turn * (_GAIN / _RADIANS), goal.speed)])

    def _unsteadiness(self, careful: bool) -> np.ndarray:
        fresh = self._rng.standard_normal(6) * np.repeat([1.0, 0.3], 3)
        self._wander = _NOISE_MEMORY * self._wander + np.sqrt(1 - _NOISE_MEMORY**2) * fresh
        return self._wander * self._noise * (0.4 if careful else 1.0)

    def _action(self, delta: np.ndarray, gripper: float) -> np.ndarray:
        delta = np.clip(delta, -1.0, 1.0)
        if self._absolute:
            here = self._hand.pose
            turned = rotation_vector(rotation_matrix(delta[3:] * _RADIANS) @ here.rotation)
            delta = np.concatenate([here.position + delta[:3] * _METRES, turned])
        return np.append(delta, gripper).astype(np.float32)


def make(env: RobosuiteEnv, config: ExpertConfig, seed: int) -> ScriptedExpert:
    """An expert for the episode that was just reset.

    Raises:
        MissingCapability: there is no script for the task, or its actions move joints.
    """
    task, controller = env.config.task, env.config.controller
    if task not in SCRIPTS or controller == "joint_delta":
        raise MissingCapability(
            f"There is no scripted expert for {task} with {controller} actions. "
            f"Tasks: {', '.join(sorted(SCRIPTS))}; actions: delta, absolute."
        )
    return ScriptedExpert(env, config, seed)


def _saturate(vector: np.ndarray, limit: float) -> np.ndarray:
    """A vector of length below `limit`, with no corner where the limit begins to act."""
    return np.asarray(vector * (limit / np.hypot(limit, np.linalg.norm(vector))))
