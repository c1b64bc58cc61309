"""A residual MLP over the flattened chunk: small, and fast on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robopolicy.errors import ConfigError
from robopolicy.networks.embedding import level_encoder
from robopolicy.networks.mish import Mish
from robopolicy.registry import register

__all__ = ["MLP", "MLPConfig"]


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """Width and depth of the residual stack."""

    width: int = 512
    blocks: int = 3
    embedding: int = 64
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.width < 1 or self.blocks < 1 or self.embedding < 4 or not 0 <= self.dropout < 1:
            raise ConfigError(f"mlp: width, blocks >= 1, embedding >= 4, 0 <= dropout < 1; got {self}.")


class _Block(nn.Module):
    """Pre-norm residual block; condition and noise level enter as scale and shift (adaptive LayerNorm)."""

    def __init__(self, width: int, condition: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(condition, 2 * width)
        self.body = nn.Sequential(
            nn.Linear(width, width), Mish(), nn.Dropout(dropout), nn.Linear(width, width)
        )

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation(condition).chunk(2, -1)
        return x + self.body(self.norm(x) * (1 + scale) + shift)


@register("network", "mlp")
class MLP(nn.Module):
    """Residual MLP with adaptive LayerNorm (after DiT, Peebles & Xie 2023) on chunks of any length."""

    def __init__(
        self, config: MLPConfig, *, action_size: int, horizon: int, obs_horizon: int, condition_size: int
    ) -> None:
        super().__init__()
        self.config = config
        self.level = level_encoder(config.embedding)
        width = config.width
        self.condition = nn.Sequential(
            nn.Linear(obs_horizon * condition_size + config.embedding, width), Mish()
        )
        self.inlet = nn.Linear(action_size * horizon, width)
        self.blocks = nn.ModuleList(_Block(width, width, config.dropout) for _ in range(config.blocks))
        self.outlet = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, action_size * horizon))

    def forward(self, x: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        """`[B, Tp, Dz]`, `[B]`, `[B, To, Dc]` -> `[B, Tp, Dz]`."""
        context = self.condition(torch.cat([condition.flatten(1), self.level(level)], -1))
        hidden = self.inlet(x.flatten(1))
        for block in self.blocks:
            hidden = block(hidden, context)
        return self.outlet(hidden).view_as(x)
