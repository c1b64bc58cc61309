"""A residual MLP over the flattened chunk: small, and fast on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

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

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        scale, shift = modulation.chunk(2, -1)
        return _whole(x) + self.body(self.norm(x) * (1 + scale) + shift)


def _whole(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


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

    def context(self, level: Tensor, condition: Tensor) -> list[Tensor]:
        """What the chunk has no part in, which is half of it: every block's scale, shift `[B, 2 * width]`."""
        hidden = self.condition(torch.cat([condition.flatten(1), self.level(level)], -1))
        return [cast(_Block, block).modulation(hidden) for block in self.blocks]

    def given(self, x: Tensor, context: Sequence[Tensor]) -> Tensor:
        """`[B, Tp, Dz]` -> `[B, Tp, Dz]`."""
        hidden = self.inlet(x.flatten(1))
        for block, modulation in zip(self.blocks, context, strict=True):
            hidden = block(hidden, modulation)
        return self.outlet(hidden).view_as(x)

    def forward(self, x: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        """`[B, Tp, Dz]`, `[B]`, `[B, To, Dc]` -> `[B, Tp, Dz]`."""
        return self.given(x, self.context(level, condition))
