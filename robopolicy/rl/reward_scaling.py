"""Rewards in units of the standard deviation of what they add up to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["CLIP", "GAMMA", "RewardScaling"]

GAMMA = 0.99
CLIP = 10.0


class RewardScaling:
    """Divides rewards by the running deviation of the discounted return (one for all lanes), and clips."""

    def __init__(self, lanes: int) -> None:
        self.count, self.mean, self.square = 0, 0.0, 0.0
        self.returns = np.zeros(lanes)

    @property
    def deviation(self) -> float:
        """Of all returns seen so far; 1 before any differ."""
        spread = (self.square / self.count) ** 0.5 if self.count else 0.0
        return spread if spread > 1e-8 else 1.0

    def __call__(self, rewards: np.ndarray, ended: np.ndarray, happened: np.ndarray) -> np.ndarray:
        """Scaled rewards `[T, B]` of chunks; ended and happened are bool `[T, B]`."""
        for t in range(len(rewards)):
            self.returns = np.where(happened[t], GAMMA * self.returns + rewards[t], 0.0)
            self._add(self.returns[happened[t]])
            self.returns[ended[t]] = 0.0
        return np.clip(rewards / self.deviation, -CLIP, CLIP)

    def state(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "count": self.count,
            "mean": self.mean,
            "square": self.square,
            "returns": self.returns.tolist(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Read back what `state` gave."""
        self.count, self.mean, self.square = int(state["count"]), float(state["mean"]), float(state["square"])
        self.returns = np.asarray(state["returns"], np.float64)

    def _add(self, values: np.ndarray) -> None:
        # Chan et al. 1979: moments of two sets as those of their union.
        if not values.size:
            return
        total = self.count + values.size
        mean = float(values.mean())
        shift = mean - self.mean
        self.square += float(((values - mean) ** 2).sum()) + shift**2 * self.count * values.size / total
        self.mean += shift * values.size / total
        self.count = total
