"""Returns and advantages of chunks. Terminated is not truncated, and a chunk may end early.

One row is one chunk in one lane. Its reward and its discount come from `chunk_reward`; its `next_values` are
V(next observation), which is the final observation where an episode ended. A truncated row bootstraps from
it, a terminated one from nothing, and no trace runs over either.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from robopolicy.errors import ConfigError

__all__ = ["Discounting", "advantages", "chunk_reward"]

Discounting = Literal["step", "chunk"]


def chunk_reward(
    rewards: np.ndarray, steps: np.ndarray, gamma: float, discounting: Discounting = "step"
) -> tuple[np.ndarray, np.ndarray]:
    """Reward of whole chunks and the discount of what follows them, float64 `[...]` each.

    Args:
        rewards: `[..., Ta]`, 0 in rows that were not executed.
        steps: executed steps `[...]`, n.
        discounting: "step" is sum_j gamma^j r_j and gamma^n; "chunk", as DPPO publishes it, is the plain sum
            and gamma.
    """
    if not 0 < gamma <= 1:
        raise ConfigError(f"gamma must be in (0, 1], got {gamma}.")
    paid = rewards.astype(np.float64)
    if discounting == "chunk":
        return paid.sum(-1), np.full(steps.shape, gamma)
    return paid @ gamma ** np.arange(rewards.shape[-1]), gamma ** steps.astype(np.float64)


def advantages(
    rewards: np.ndarray,
    discounts: np.ndarray,
    values: np.ndarray,
    next_values: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    *,
    lam: float,
    lost: np.ndarray | None = None,
) -> np.ndarray:
    """Generalised advantages (Schulman et al. 2016) `[T, B]`; lambda is per chunk.

    Args:
        lost: rows that did not happen; theirs is 0, and no trace runs into them.
    """
    happened = np.ones(rewards.shape, bool) if lost is None else ~lost
    surprise = rewards + discounts * np.where(terminated, 0.0, next_values) - values
    trace = lam * discounts * ~(terminated | truncated)
    found = np.zeros(rewards.shape)
    following = np.zeros(rewards.shape[1])
    for t in reversed(range(len(rewards))):
        following = happened[t] * (surprise[t] + trace[t] * following)
        found[t] = following
    return found
