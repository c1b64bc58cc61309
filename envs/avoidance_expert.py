"""A demonstrator for obstacle avoidance: draws a route, then follows a smooth path along it unsteadily."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from envs.avoidance_env import COUNTS, GOAL, ROWS, STEP, AvoidanceEnv
from robopolicy import seeding
from robopolicy.env import Observation
from robopolicy.errors import ConfigError, unknown

__all__ = ["AvoidanceExpert", "AvoidanceExpertConfig"]

_MEMORY = 0.95
_BESIDE = 0.065
"""How far from the outermost obstacle of a row an outer gap is passed, metres."""
_POINTS = 60
"""Of the path between two rows."""


@dataclass(frozen=True, kw_only=True)
class AvoidanceExpertConfig:
    """How demonstrations vary."""

    routes: tuple[str, ...] = ()
    """Routes taken, as `AvoidanceEnv.route` names them; all by default."""
    noise: float = 0.003
    """Standard deviation of a slow wandering about the path, metres."""
    slowest: float = 0.6
    """Each episode has its own speed, drawn between this fraction and 0.9 of the fastest."""

    def __post_init__(self) -> None:
        for route in self.routes:
            if route not in AvoidanceEnv.routes:
                raise ConfigError("expert.routes: " + unknown("route", route, AvoidanceEnv.routes))
        if not 0 <= self.noise <= 0.02 or not 0 < self.slowest <= 0.9:
            raise ConfigError(
                f"An expert needs noise in [0, 0.02] and slowest in (0, 0.9]: {self.noise}, {self.slowest}."
            )


class AvoidanceExpert:
    """One episode along one route."""

    def __init__(self, env: AvoidanceEnv, config: AvoidanceExpertConfig, seed: int) -> None:
        self._rng = seeding.rng(seed, "expert")
        self.route = str(self._rng.choice(config.routes or AvoidanceEnv.routes))
        self._env, self._noise = env, config.noise
        self._path, self._along = _path(env, self.route, self._rng)
        self._reach = STEP * float(self._rng.uniform(config.slowest, 0.9))
        self._travelled = 0.0
        self._wander = np.zeros(2)

    def act(self, observation: Observation) -> np.ndarray:
        """The next action `[2]`, float32."""
        del observation  # the path was laid with the true positions
        fresh = self._rng.standard_normal(2)
        self._wander = _MEMORY * self._wander + np.sqrt(1 - _MEMORY**2) * fresh
        self._travelled += self._reach
        goal = np.array([np.interp(self._travelled, self._along, self._path[:, i]) for i in range(2)])
        step = np.clip((goal + self._noise * self._wander - self._env.target) / STEP, -1.0, 1.0)
        absolute = self._env.config.controller == "absolute"
        return np.asarray(self._env.target + STEP * step if absolute else step, np.float32)


def _path(env: AvoidanceEnv, route: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points `[N, 2]` of a path that crosses every row upright, and the distance travelled at each `[N]`."""
    places = [env.target]
    first = 0
    for y, count, gap in zip(ROWS, COUNTS, route, strict=True):
        row = env.obstacles[first : first + count, 0]
        edges = np.concatenate([[row[0] - 2 * _BESIDE], row, [row[-1] + 2 * _BESIDE]])
        middle = edges[int(gap) : int(gap) + 2].mean() + rng.uniform(-0.01, 0.01)
        places.append(np.array([middle, y]))
        first += count
    places.append(np.array([places[-1][0] + rng.uniform(-0.05, 0.05), GOAL + 0.05]))
    part = np.linspace(0.0, 1.0, _POINTS)
    ease = part**2 * (3 - 2 * part)
    pieces = [
        np.stack([one[0] + ease * (two[0] - one[0]), one[1] + part * (two[1] - one[1])], axis=1)
        for one, two in itertools.pairwise(places)
    ]
    path = np.concatenate(pieces)
    lengths = np.linalg.norm(np.diff(path, axis=0), axis=1)
    return path, np.concatenate([[0.0], np.cumsum(lengths)])
