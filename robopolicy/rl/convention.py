"""What an episode of reinforcement learning pays, and when it ends: the one place that says so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from robopolicy.errors import ConfigError
from robopolicy.vector import ChunkStep

__all__ = ["ConventionConfig", "RewardKind", "rewards"]

RewardKind = Literal["success", "cost", "env"]


@dataclass(frozen=True, kw_only=True)
class ConventionConfig:
    """Reward of a step, and whether success ends the episode."""

    reward: RewardKind = "success"
    """success: 1 in every successful step, else 0 (DPPO). cost: -1 until success, then 0 (DSRL).
    env: the environment's own."""
    terminate: bool = False
    """End an episode at its first success. Otherwise it runs to its horizon and success goes on paying."""
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ConfigError(f"convention.scale must be positive, got {self.scale}.")

    @property
    def success_hold(self) -> int:
        """For `LaneVectorEnv`: 0 ends an episode at its first success, -1 never for its success."""
        return 0 if self.terminate else -1

    def value_range(self, gamma: float) -> tuple[float, float]:
        """The least and the most that a return discounted by gamma a step can be."""
        if self.reward == "env":
            return -math.inf, math.inf
        most = self.scale / (1 - gamma) if gamma < 1 else math.inf
        if self.reward == "cost":
            return -most, 0.0
        return 0.0, self.scale if self.terminate else most


def rewards(step: ChunkStep, convention: ConventionConfig) -> np.ndarray:
    """Reward of every executed step, float32 `[B, Ta]`; 0 in rows that were not executed."""
    if convention.reward == "env":
        paid = step.rewards
    else:
        paid = step.success - (1.0 if convention.reward == "cost" else 0.0)
    executed = np.arange(paid.shape[1]) < step.steps[:, None]
    return np.where(executed, convention.scale * paid, 0.0).astype(np.float32)
