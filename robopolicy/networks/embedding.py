"""Embedding of scalars."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from robopolicy.networks.mish import Mish

__all__ = ["SinusoidalEmbedding", "level_encoder"]


class SinusoidalEmbedding(nn.Module):
    """Sines and cosines of a scalar `[B]` at geometric frequencies from 1 to 1/10000: `[B, size]`."""

    frequencies: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        half = size // 2
        frequencies = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, value: Tensor) -> Tensor:
        """`[B]` to `[B, size]`."""
        angles = value[:, None].float() * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], -1)


def level_encoder(size: int, expansion: int = 4) -> nn.Sequential:
    """Noise level `[B]` to features `[B, size]`: sinusoids and a two-layer MLP."""
    return nn.Sequential(
        SinusoidalEmbedding(size),
        nn.Linear(size, expansion * size),
        Mish(),
        nn.Linear(expansion * size, size),
    )
