"""Exponential moving average of weights, warmed up as in Diffusion Policy's reference code."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from robopolicy.errors import ConfigError

__all__ = ["EMAConfig", "ema_decay", "ema_update", "shadow"]

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class EMAConfig:
    """decay(n) = 1 - n^-power after the n-th update, capped."""

    power: float = 0.75
    maximum: float = 0.9999

    def __post_init__(self) -> None:
        if not 0 <= self.maximum < 1 or self.power <= 0:
            raise ConfigError(f"ema needs 0 <= maximum < 1 and power > 0, got {self}.")


def ema_decay(config: EMAConfig, update: int) -> float:
    """Decay of the update after `update` earlier ones: 0, 0, .405, .561, .646, ... for power 3/4."""
    previous = update - 1
    if previous <= 0:
        return 0.0
    return min(max(1.0 - (1.0 + previous) ** -config.power, 0.0), config.maximum)


def shadow(module: M) -> M:
    """A frozen copy to average into."""
    return copy.deepcopy(module).requires_grad_(False).eval()


@torch.no_grad()
def ema_update(average: nn.Module, module: nn.Module, decay: float) -> None:
    """average = decay * average + (1 - decay) * module for trained parameters; everything else is copied."""
    targets: list[torch.Tensor] = []
    sources: list[torch.Tensor] = []
    for target, source in zip(average.parameters(), module.parameters(), strict=True):
        if source.requires_grad:
            targets.append(target)
            sources.append(source)
        else:
            target.copy_(source)
    if targets:
        torch._foreach_lerp_(targets, sources, 1.0 - decay)
    for kept, current in zip(average.buffers(), module.buffers(), strict=True):
        kept.copy_(current)
