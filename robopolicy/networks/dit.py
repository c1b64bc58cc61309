"""A diffusion transformer with adaptive LayerNorm (DiT, Peebles & Xie 2023) over the steps of a chunk."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from robopolicy.networks.attention import Attention, Positions, initialise
from robopolicy.networks.embedding import level_encoder
from robopolicy.networks.mish import Mish
from robopolicy.networks.transformer import check_sizes, feed_forward
from robopolicy.registry import register

__all__ = ["DiT", "DiTConfig"]


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Sizes; the default has 7.4 M parameters."""

    width: int = 256
    layers: int = 6
    heads: int = 4
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_sizes("dit", self.width, self.layers, self.heads, self.dropout)


class _Layer(nn.Module):
    """Attention and feed-forward, each scaled, shifted and gated by the context; at first the identity."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = Attention(width, heads, dropout)
        self.feed_forward = feed_forward(width, dropout)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        scale, shift, gate, scale_, shift_, gate_ = self.modulation(context)[:, None].chunk(6, -1)
        x = self.norm(tokens) * (1 + scale) + shift
        tokens = tokens + gate * self.attention(x, x)
        result: Tensor = tokens + gate_ * self.feed_forward(self.norm(tokens) * (1 + scale_) + shift_)
        return result


@register("network", "dit")
class DiT(nn.Module):
    """Action tokens that look at each other; noise level and observations enter every layer by modulation.

    Modulations and the outlet start at zero (adaLN-Zero): the untrained network is 0 everywhere.
    """

    def __init__(
        self, config: DiTConfig, *, action_size: int, horizon: int, obs_horizon: int, condition_size: int
    ) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.level = level_encoder(width, expansion=1)
        self.observation = nn.Linear(obs_horizon * condition_size, width)
        self.activation = Mish()
        self.inlet = nn.Linear(action_size, width)
        self.positions = Positions(horizon, width)
        self.layers = nn.ModuleList(_Layer(width, config.heads, config.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.outlet = nn.Linear(width, action_size)
        initialise(self)
        for part in self.modules():
            if isinstance(part, _Layer):
                nn.init.zeros_(part.modulation.weight)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.outlet.weight)

    def forward(self, x: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        """`[B, Tp, Dz]`, `[B]`, `[B, To, Dc]` -> `[B, Tp, Dz]`."""
        context = self.activation(self.level(level) + self.observation(condition.flatten(1)))
        tokens = self.positions(self.inlet(x))
        for layer in self.layers:
            tokens = layer(tokens, context)
        scale, shift = self.modulation(context)[:, None].chunk(2, -1)
        result: Tensor = self.outlet(self.norm(tokens) * (1 + scale) + shift)
        return result
