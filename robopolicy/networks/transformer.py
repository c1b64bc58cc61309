"""The transformer of Diffusion Policy (Chi et al. 2023): action tokens that look at the observations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robopolicy.errors import ConfigError
from robopolicy.networks.attention import Attention, Positions, initialise
from robopolicy.networks.embedding import SinusoidalEmbedding
from robopolicy.networks.mish import Mish
from robopolicy.registry import register

__all__ = ["DecoderLayer", "Transformer", "TransformerConfig", "check_sizes", "feed_forward"]


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The defaults are the published sizes for robomimic (9.0 M parameters; there dropout is 0.3)."""

    width: int = 256
    layers: int = 8
    heads: int = 4
    dropout: float = 0.0
    """In attention and feed-forward layers."""

    def __post_init__(self) -> None:
        check_sizes("transformer", self.width, self.layers, self.heads, self.dropout)


def check_sizes(name: str, width: int, layers: int, heads: int, dropout: float) -> None:
    """Raise unless a transformer of these sizes can be made.

    Raises:
        ConfigError: with the numbers.
    """
    if min(layers, heads) < 1 or width < 4 or width % (2 * heads) or not 0 <= dropout < 1:
        raise ConfigError(
            f"{name} needs layers, heads >= 1, width a multiple of twice the heads and 0 <= dropout < 1; got "
            f"width={width}, layers={layers}, heads={heads}, dropout={dropout}."
        )


def feed_forward(width: int, dropout: float, inner: int | None = None) -> nn.Sequential:
    """The two-layer part of a transformer layer, inside four times as wide unless `inner` is given."""
    inner = inner or 4 * width
    return nn.Sequential(
        nn.Linear(width, inner),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(inner, width),
        nn.Dropout(dropout),
    )


class DecoderLayer(nn.Module):
    """Pre-norm: attention among the tokens, attention to the memory, feed-forward."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.own = Attention(width, heads, dropout)
        self.cross = Attention(width, heads, dropout)
        self.feed_forward: nn.Module = feed_forward(width, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Tensor, memory: Tensor, own_mask: Tensor | None, memory_mask: Tensor | None
    ) -> Tensor:
        """`[B, T, width]` and `[B, S, width]` to `[B, T, width]`; masks `[T, T]`, `[T, S]`."""
        x = self.norms[0](tokens)
        tokens = tokens + self.dropout(self.own(x, x, own_mask))
        tokens = tokens + self.dropout(self.cross(self.norms[1](tokens), memory, memory_mask))
        return tokens + self.think(self.norms[2](tokens), memory)

    def think(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """The last part, of each token by itself."""
        result: Tensor = self.feed_forward(tokens)
        return result


@register("network", "transformer")
class Transformer(nn.Module):
    """A decoder over action tokens; its memory is the noise level and the To observations.

    An action token looks at itself and earlier ones, at the noise level, and at the observations up to its
    own time (action t at observations <= t).
    """

    own_mask: Tensor
    memory_mask: Tensor

    def __init__(
        self,
        config: TransformerConfig,
        *,
        action_size: int,
        horizon: int,
        obs_horizon: int,
        condition_size: int,
    ) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.level = SinusoidalEmbedding(width)
        self.observation = nn.Linear(condition_size, width)
        self.memory_positions = Positions(1 + obs_horizon, width)
        self.memory = nn.Sequential(nn.Linear(width, 4 * width), Mish(), nn.Linear(4 * width, width))
        self.inlet = nn.Linear(action_size, width)
        self.positions = Positions(horizon, width)
        self.layers = nn.ModuleList(
            DecoderLayer(width, config.heads, config.dropout) for _ in range(config.layers)
        )
        self.outlet = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, action_size))
        time = torch.arange(horizon)[:, None]
        self.register_buffer("own_mask", time >= torch.arange(horizon), persistent=False)
        # Memory entry 0 is the noise level; entry s > 0 is observation s - 1.
        self.register_buffer("memory_mask", time >= torch.arange(1 + obs_horizon) - 1, persistent=False)
        initialise(self)

    def forward(self, x: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        """`[B, Tp, Dz]`, `[B]`, `[B, To, Dc]` -> `[B, Tp, Dz]`."""
        seen = self.observation(condition)
        memory = torch.cat([self.level(level)[:, None].to(seen.dtype), seen], 1)
        memory = self.memory(self.memory_positions(memory))
        tokens = self.positions(self.inlet(x))
        for layer in self.layers:
            tokens = layer(tokens, memory, self.own_mask, self.memory_mask)
        result: Tensor = self.outlet(tokens)
        return result
