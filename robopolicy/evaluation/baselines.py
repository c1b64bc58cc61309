"""Actors that learned nothing, to compare with (doing nothing, acting at random), and one that explores."""

from __future__ import annotations

import numpy as np

from robopolicy.env import make_env
from robopolicy.errors import ConfigError, unknown
from robopolicy.rollout import Actor, LaneView
from robopolicy.seeding import rng
from robopolicy.spec import ActionSpec, Spec
from robopolicy.task import Task

__all__ = ["BASELINES", "ExploringActor", "RandomActor", "ZeroActor", "baseline", "baseline_in"]


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
                rng(seed, f"random action {time}").uniform(self._low, self._high, shape)
                for seed, time in zip(view.seeds.tolist(), view.time.tolist(), strict=True)
            ]
        ).astype(np.float32)


class ExploringActor:
    """Another actor, unsteady: all actions of a chunk are off by one normal deviation, within the bounds.

    What a world model is to know is what actions change; a steady actor's always come alike.

    Args:
        level: largest standard deviation, in half the range of an action; each episode has its own, between 0
            and this. Episode and step alone decide all of it.
    """

    def __init__(self, actor: Actor, action: ActionSpec, level: float) -> None:
        self.actor, self.spec = actor, actor.spec
        self.obs_horizon, self.action_horizon = actor.obs_horizon, actor.action_horizon
        self._low, self._high = np.asarray(action.low), np.asarray(action.high)
        self._level = level
        if level < 0 or not np.isfinite([self._low, self._high]).all():
            raise ConfigError(
                f"Exploring needs a level >= 0 and bounded actions, got {level}, low={action.low}, "
                f"high={action.high}."
            )

    def act(self, view: LaneView) -> np.ndarray:
        """`[B, Ta, Da]`."""
        chunk = self.actor.act(view)
        assert chunk is not None
        half, off = (self._high - self._low) / 2, []
        for seed, time in zip(view.seeds.tolist(), view.time.tolist(), strict=True):
            level = self._level * rng(seed, "exploration").random()
            off.append(level * half * rng(seed, f"exploration {time}").standard_normal(len(half)))
        return np.clip(chunk + np.stack(off)[:, None], self._low, self._high).astype(np.float32)


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
