"""Recorded episodes as transitions of chunks: what they paid, where they ended, what they were worth.

A chunk begins at every step. It pays the discounted rewards of its m steps (fewer than H where its episode
ends) and goes on with the discount gamma^m at the observation after them. What follows an episode's end:

| the episode                                 | the chunk's discount | Monte-Carlo returns count          |
|---------------------------------------------|----------------------|------------------------------------|
| succeeded, and success ends episodes        | 0                    | nothing more                       |
| ran to its horizon, or success does not end | gamma^m              | the worst, for ever                |
| failed for good before its horizon          | 0                    | the worst, for ever, as its reward |

The worst is reward 0 (``reward=success``), or -1 in every step (``reward=cost``): returns are lower bounds of
what could have been reached. So a failed episode never ends with a bonus, not even that of ending.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import Batch, Cache, Windows
from robopolicy.errors import ConfigError
from robopolicy.rl.convention import ConventionConfig
from robopolicy.rl.labels import StepLabels, label_steps
from robopolicy.rl.targets import chunk_reward
from robopolicy.seeding import rng
from robopolicy.spec import Spec

__all__ = ["Columns", "Episodes", "Transitions", "chunks_of", "split"]

Columns = dict[str, Tensor]
"""reward, discount, returns float32 `[B]`."""


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """What one store's M chunks are, as NumPy arrays `[M]` but for the last."""

    start: np.ndarray
    """Row of the store, int64."""
    following: np.ndarray
    """Row of the observation after the steps that are paid for."""
    reward: np.ndarray
    discount: np.ndarray
    returns: np.ndarray
    episode: np.ndarray
    """Number in the store."""


def chunks_of(
    store: EpisodeStore, convention: ConventionConfig, *, action_horizon: int, gamma: float, n_step: int = 1
) -> Episodes:
    """Every chunk of a store.

    Args:
        n_step: chunks whose rewards are counted before a value takes over.

    Raises:
        ConfigError: ``reward=cost`` without discounting, where the worst has no value.
    """
    labels = label_steps(store, convention)
    worst = 0.0
    if convention.reward == "cost":
        if gamma == 1:
            raise ConfigError("reward=cost needs gamma < 1: a failure costs 1 in every step, for ever.")
        worst = -convention.scale / (1 - gamma)
    starts, count = labels.starts, action_horizon * n_step
    last = labels.last[starts]
    steps = np.minimum(count, last + 1 - starts)
    place = np.arange(count)
    rows = np.minimum(starts[:, None] + place, len(labels.rewards) - 1)
    paid = np.where(place < steps[:, None], labels.rewards[rows], 0.0)
    reward, discount = chunk_reward(paid, steps, gamma)
    ended = starts + steps == last + 1
    complete = convention.terminate & labels.succeeded[last]
    lost = _lost(store, labels)[starts] & ~complete
    reward = reward + np.where(ended & lost, discount * worst, 0.0)
    return Episodes(
        start=starts,
        following=np.minimum(starts + steps, labels.final[starts]),
        reward=reward,
        discount=np.where(ended & (complete | lost), 0.0, discount),
        returns=_returns(labels, convention, gamma, worst)[starts],
        episode=np.repeat(np.arange(len(store)), store.lengths)[starts],
    )


def _returns(labels: StepLabels, convention: ConventionConfig, gamma: float, worst: float) -> np.ndarray:
    """Discounted return from every step on, float64 `[N]`."""
    found = np.zeros(len(labels.rewards))
    for row in reversed(range(len(found))):
        if row > labels.last[row]:
            continue
        if row < labels.last[row]:
            ahead = found[row + 1]
        else:
            ahead = 0.0 if convention.terminate and labels.succeeded[row] else worst
        found[row] = labels.rewards[row] + gamma * ahead
    return found


def _lost(store: EpisodeStore, labels: StepLabels) -> np.ndarray:
    """Whether a step's episode failed before its horizon, bool `[N]` (none where the horizon is unknown)."""
    horizon = (store.task or {}).get("horizon", 0)
    short = np.repeat(store.lengths < horizon, store.lengths)
    return short & ~labels.won


class Transitions:
    """Chunks of several stores, gathered as batches by number."""

    def __init__(
        self,
        stores: Sequence[EpisodeStore],
        spec: Spec,
        convention: ConventionConfig,
        *,
        obs_horizon: int,
        action_horizon: int,
        gamma: float,
        n_step: int = 1,
        device: torch.device | str = "cpu",
        cache: Cache = "auto",
    ) -> None:
        parts = [
            chunks_of(store, convention, action_horizon=action_horizon, gamma=gamma, n_step=n_step)
            for store in stores
        ]
        self.windows = [
            Windows(
                store, obs_keys=list(spec.observations), obs_horizon=obs_horizon,
                pred_horizon=obs_horizon - 1 + action_horizon, action_horizon=action_horizon, device=device,
                cache=cache,
            )
            for store in stores
        ]  # fmt: skip
        self.device = torch.device(device)
        self.first = np.cumsum([0, *(len(part.start) for part in parts)])
        """Number of each store's first chunk, and of all."""
        self._start, self._following = (
            torch.as_tensor(np.concatenate([getattr(part, name) for part in parts]), device=self.device)
            for name in ("start", "following")
        )
        self._columns = {
            name: torch.as_tensor(
                np.concatenate([getattr(part, name) for part in parts]),
                dtype=torch.float32,
                device=self.device,
            )
            for name in ("reward", "discount", "returns")
        }
        many = np.cumsum([0, *(len(store) for store in stores)])
        self.episode = np.concatenate([part.episode + many[i] for i, part in enumerate(parts)])
        """Of every chunk, counted over all stores."""
        self.wins = int(sum((store.successes == 1).sum() for store in stores))
        self.episodes = int(many[-1])

    def __len__(self) -> int:
        """Chunks."""
        return int(self.first[-1])

    def gather(self, index: Tensor) -> tuple[Batch, Batch, Columns]:
        """Windows now and after the chunk, and what it paid; grouped by store, in the order given within."""
        now, after = [], []
        chosen = self._by_store(index)
        for windows, part in zip(self.windows, chosen, strict=True):
            if len(part):
                now.append(windows.gather(self._start[part]))
                after.append(windows.gather(self._following[part]))
        order = torch.cat(chosen)
        return _joined(now), _joined(after), {key: value[order] for key, value in self._columns.items()}

    def grouped(self, index: Tensor) -> Tensor:
        """Numbers in the order in which `gather` gives them."""
        return torch.cat(self._by_store(index))

    @property
    def reward_range(self) -> tuple[float, float]:
        """The least and the most that a chunk paid."""
        reward = self._columns["reward"]
        return float(reward.min()), float(reward.max())

    def _by_store(self, index: Tensor) -> list[Tensor]:
        bounds = [index.new_tensor(int(n)) for n in self.first]
        return [index[(index >= low) & (index < high)] for low, high in itertools.pairwise(bounds)]


def split(episode: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the chunks for training and of those held out, whole episodes `[M]` at a time."""
    names = np.unique(episode)
    held = math.ceil(share * len(names)) if share and len(names) > 1 else 0
    chosen = rng(seed, "value split").permutation(names)[:held]
    out = np.isin(episode, chosen)
    return np.flatnonzero(~out), np.flatnonzero(out)


def _joined(batches: list[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    texts = [batch.instruction or [] for batch in batches]
    return Batch(
        observation={
            key: torch.cat([batch.observation[key] for batch in batches]) for key in batches[0].observation
        },
        action=torch.cat([batch.action for batch in batches]),
        instruction=[text for part in texts for text in part] or None,
    )
