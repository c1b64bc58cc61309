"""Actions as a world model sees them: two-hot over bins (World4RL, arXiv 2509.19080), with two ablations."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from robopolicy.errors import ConfigError, unknown

__all__ = ["ENCODINGS", "ActionCode", "Encoding", "decode", "one_hot", "two_hot"]

Encoding = Literal["two_hot", "one_hot", "linear"]
ENCODINGS = ("two_hot", "one_hot", "linear")


def two_hot(value: Tensor, bins: int) -> Tensor:
    """Weights `[..., K]` of bins evenly spaced over [-1, 1]: the two beside a value share it by nearness.

    Linear interpolation, so `decode` gives the value back exactly; values beyond the bins count as the last.
    """
    position = (value.clamp(-1, 1)[..., None] + 1) * ((bins - 1) / 2)
    return (1 - (position - torch.arange(bins, device=value.device)).abs()).clamp_min(0)


def one_hot(value: Tensor, bins: int) -> Tensor:
    """The nearest bin alone, `[..., K]`."""
    nearest = ((value.clamp(-1, 1) + 1) * ((bins - 1) / 2)).round().long()
    return torch.nn.functional.one_hot(nearest, bins).to(value.dtype)


def decode(code: Tensor) -> Tensor:
    """The value `[...]` that a code `[..., K]` stands for."""
    return code @ torch.linspace(-1, 1, code.shape[-1], device=code.device, dtype=code.dtype)


class ActionCode:
    """Actions `[..., Da]` of [-1, 1] to features `[..., size]`."""

    def __init__(self, encoding: Encoding, bins: int, actions: int) -> None:
        if encoding not in ENCODINGS:
            raise ConfigError(unknown("action encoding", encoding, ENCODINGS))
        if bins < 2:
            raise ConfigError(f"Actions need at least 2 bins, got {bins}.")
        self.encoding, self.bins = encoding, bins
        self.size = actions if encoding == "linear" else actions * bins

    def __call__(self, action: Tensor) -> Tensor:
        """Values beyond the bins are clipped."""
        if self.encoding == "linear":
            return action.clamp(-1, 1)
        code = two_hot if self.encoding == "two_hot" else one_hot
        return code(action, self.bins).flatten(-2)
