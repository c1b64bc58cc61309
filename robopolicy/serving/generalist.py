"""Generalists with Octo's `sample_actions` behind the wire, in a process with their own framework.

Octo (Octo Model Team, RSS 2024): observations are windows `[B, To, ...]` with a mask of those that are real,
tasks come from texts, and `[B, horizon, Da]` normalised actions from the present on come back.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from robopolicy.errors import ConfigError, unknown
from robopolicy.serving.announcement import Announcement
from robopolicy.serving.served import Chunks, Served
from robopolicy.spec import Spec

__all__ = ["Generalist", "ServedGeneralist"]


class Generalist(Protocol):
    """What Octo's models have."""

    def create_tasks(self, *, texts: Sequence[str]) -> Any:
        """Tasks for B texts."""
        ...

    def sample_actions(self, observations: Mapping[str, Any], tasks: Any, *, rng: Any) -> Any:
        """Normalised actions `[B, horizon, Da]`."""
        ...


class ServedGeneralist(Served):
    """Fills the window, asks, and undoes the normalisation: ``action * std + mean`` where the mask says so.

    The observations of a window are taken as they come: at the start of an episode they repeat the first.

    Args:
        keys: the model's names of the spec's observations, without the instruction.
        statistics: "mean" and "std" `[Da]` of the actions, and "mask" (bool `[Da]`) of what was normalised.
        rng: from a seed to what the model takes, e.g. ``jax.random.PRNGKey``.
        mask_key: ``timestep_pad_mask``, or ``pad_mask`` for Octo 1.0.

    Raises:
        ConfigError: statistics or names that do not fit the spec.
    """

    def __init__(
        self,
        model: Generalist,
        *,
        spec: Spec,
        keys: Mapping[str, str],
        statistics: Mapping[str, Any],
        rng: Callable[[int], Any],
        window: int = 2,
        horizon: int = 4,
        action_horizon: int = 1,
        version: str = "",
        mask_key: str = "timestep_pad_mask",
        max_chunks: int = 64,
    ) -> None:
        super().__init__(
            Announcement(
                version=version,
                accepts=("batch", "n", "seed"),
                spec=spec,
                obs_horizon=window,
                pred_horizon=window - 1 + horizon,
                action_horizon=action_horizon,
                max_chunks=max_chunks,
            )
        )
        texts = [key for key, o in spec.observations.items() if o.kind == "text"]
        if len(texts) != 1:
            raise ConfigError(f"A generalist is told what to do by one text; the spec has {texts}.")
        for key in spec.observations.keys() - keys.keys() - {*texts}:
            raise ConfigError(f"keys lacks the model's name of {key!r}.")
        for key in keys.keys() - spec.observations.keys():
            raise ConfigError("keys: " + unknown("observation", key, spec.observations))
        size = spec.action.size
        self.mean = np.asarray(statistics["mean"], np.float32)
        self.std = np.asarray(statistics["std"], np.float32)
        mask = np.asarray(statistics.get("mask", np.ones(size, bool)), bool)
        if not self.mean.shape == self.std.shape == mask.shape == (size,):
            raise ConfigError(f"Statistics have {self.mean.shape} values, the action {size}.")
        self.mean, self.std = np.where(mask, self.mean, 0), np.where(mask, self.std, 1)
        self.model, self.keys, self.text, self.rng = model, dict(keys), texts[0], rng
        self.window, self.horizon, self.mask_key = window, horizon, mask_key
        self._fresh = itertools.count()

    def sample(
        self, observation: dict[str, Any], n: int, noise: np.ndarray | None, seeds: Sequence[int | None]
    ) -> Chunks:
        """One call for all rows without a seed, and one for each that has one."""
        actions = np.empty((len(seeds), n, self.window - 1 + self.horizon, len(self.mean)), np.float32)
        free = [row for row, seed in enumerate(seeds) if seed is None]
        calls = [(free, next(self._fresh))] if free else []
        calls += [([row], seed) for row, seed in enumerate(seeds) if seed is not None]
        for rows, seed in calls:
            actions[rows] = self._ask(observation, rows, n, seed)
        return Chunks({"actions": actions})

    def _ask(self, observation: dict[str, Any], rows: list[int], n: int, seed: int) -> np.ndarray:
        """`[rows, n, Tp, Da]`; the rows before the present, which nothing executes, repeat the first."""
        again = np.repeat(rows, n)
        seen = {name: observation[key][again] for key, name in self.keys.items()}
        seen[self.mask_key] = np.ones((len(again), self.window), bool)
        tasks = self.model.create_tasks(texts=[observation[self.text][row] for row in again])
        made = np.asarray(self.model.sample_actions(seen, tasks, rng=self.rng(seed)), np.float32)
        if made.shape != (len(again), self.horizon, len(self.mean)):
            raise ConfigError(
                f"sample_actions returned {list(made.shape)}, expected "
                f"{[len(again), self.horizon, len(self.mean)]}: [B, horizon, size of the action]."
            )
        made = made * self.std + self.mean
        past = np.repeat(made[:, :1], self.window - 1, axis=1)
        return np.concatenate([past, made], 1).reshape(len(rows), n, -1, len(self.mean))
