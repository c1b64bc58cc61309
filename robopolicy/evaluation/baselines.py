"""Actors that learned nothing, to compare with: doing nothing, and acting at random."""

from __future__ import annotations

import numpy as np

from robopolicy.env import make_env
from robopolicy.errors import ConfigError, unknown
from robopolicy.rollout import LaneView
from robopolicy.seeding import derive
from robopolicy.spec import ActionSpec, Spec
from robopolicy.task import Task

__all__ = ["BASELINES", "RandomActor", "ZeroActor", "baseline", "baseline_in"]


class ZeroActor:
    """All-zero actions, clipped into the bounds: holds still where actions are deltas or velocities."""

    obs_horizon = 1
    spec: Spec | None = None

    def __init__(self, action: ActionSpec, action_horizon: int = 8) -> None:
        self.action_horizon = action_horizon
        self._row = np.clip(np.zeros(action.size), action.low, action.high).astype(np.float32)

    def act(self, view: LaneView) -> np.ndarray:
        """`[B, Ta, Da]`."""
        return np.tile(self._row, (len(view.seeds), self.action_horizon, 1))


class RandomActor:
    """Uniform actions within the bounds; episode and step alone decide them."""

    obs_horizon = 1
    spec: Spec | None = None

    def __init__(self, action: ActionSpec, action_horizon: int = 8) -> None:
        self.action_horizon = action_horizon
        self._low, self._high = np.asarray(action.low), np.asarray(action.high)
        if not np.isfinite([self._low, self._high]).all():
            raise ConfigError(f"Random actions need bounds, got low={action.low}, high={action.high}.")

    def act(self, view: LaneView) -> np.ndarray:
        """`[B, Ta, Da]`."""
        shape = (self.action_horizon, len(self._low))
        return np.stack(
            [
                np.random.default_rng(derive(seed, f"random action {time}")).uniform(
                    self._low, self._high, shape
                )
                for seed, time in zip(view.seeds.tolist(), view.time.tolist(), strict=True)
            ]
        ).astype(np.float32)


BASELINES: dict[str, type[ZeroActor | RandomActor]] = {"zero": ZeroActor, "random": RandomActor}


def baseline(name: str, action: ActionSpec) -> ZeroActor | RandomActor:
    """The baseline of a name.

    Raises:
        ConfigError: unknown name.
    """
    if name not in BASELINES:
        raise ConfigError(unknown("baseline", name, BASELINES))
    return BASELINES[name](action)


def baseline_in(task: Task, name: str) -> ZeroActor | RandomActor:
    """The baseline of a name for a task's actions, which its environment tells."""
    env = make_env(task)
    env.close()
    return baseline(name, env.robot_spec.action)
