"""Goals of goal-conditioned policies: they are told to bring about what a recorded episode came to."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from gymnasium import spaces

from robopolicy.data.store import EpisodeStore
from robopolicy.env import Observation, RobotEnv, WrappedEnv
from robopolicy.errors import DataError, SpecMismatch
from robopolicy.seeding import rng
from robopolicy.spec import GOAL

__all__ = ["GoalEnv"]


class GoalEnv(WrappedEnv):
    """An environment that shows ``goal/<key>`` beside every state and image that a store has of it as well.

    A goal is the last observation of one of the store's episodes that succeeded (of all, where the store does
    not know). Which one is decided by the episode's seed alone, and it stays for the episode. Whether an
    episode succeeds is the environment's to say, not whether it came to its goal.

    Raises:
        DataError: there is no such store, it has no episode that succeeded, or it lacks an observation.
        SpecMismatch: an observation of another shape.
    """

    def __init__(self, env: RobotEnv, store: str) -> None:
        super().__init__(env)
        opened = EpisodeStore.open(store)
        chosen = np.flatnonzero(opened.successes != 0)
        if not len(chosen):
            raise DataError(f"{store}: no episode succeeded, so there is no goal to take from it.")
        self._ends = opened.episode_ends[chosen] - 1
        spec = env.robot_spec
        keys = [key for key, o in spec.observations.items() if o.kind != "text" and not key.startswith(GOAL)]
        if missing := [key for key in keys if key not in opened.spec.observations]:
            raise DataError(f"{store}: goals need {', '.join(missing)}, which it does not have.")
        for key in keys:
            here, there = spec.observations[key].shape, opened.spec.observations[key].shape
            if here != there:
                raise SpecMismatch(
                    f"{store}: {key} has shape {list(there)}, in the environment {list(here)}."
                )
        goals = {GOAL + key: dataclasses.replace(spec.observations[key], group="goal") for key in keys}
        self.robot_spec = dataclasses.replace(spec, observations={**spec.observations, **goals})
        assert isinstance(env.observation_space, spaces.Dict)
        known = env.observation_space.spaces
        self.observation_space = spaces.Dict({**known, **{GOAL + key: known[key] for key in keys}})
        self._store: EpisodeStore = opened
        self._keys: list[str] = keys
        self._goal: Observation = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode with a goal; without a seed one is drawn from this environment's own stream."""
        super().reset(seed=seed)
        episode = int(self.np_random.integers(2**62)) if seed is None else seed
        end = int(self._ends[rng(episode, "goal").integers(len(self._ends))])
        self._goal = {GOAL + key: self._store.read(key, slice(end, end + 1))[0] for key in self._keys}
        observation, info = self.env.reset(seed=seed, options=options)
        return {**observation, **self._goal}, info

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One step of the environment."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return {**observation, **self._goal}, float(reward), terminated, truncated, info
