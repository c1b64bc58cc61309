"""A residual MLP from observations to numbers: the network of policies that do not denoise."""

from __future__ import annotations

from torch import Tensor, nn

from robopolicy.networks.mish import Mish

__all__ = ["Regressor"]


class Regressor(nn.Module):
    """`[B, To, Dc]` to `[B, outputs]`."""

    def __init__(self, inputs: int, outputs: int, *, width: int, blocks: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.inlet = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, width),
                Mish(),
                nn.Dropout(dropout),
                nn.Linear(width, width),
            )
            for _ in range(blocks)
        )
        self.outlet = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs))

    def forward(self, condition: Tensor) -> Tensor:
        """`[B, outputs]`."""
        hidden = self.inlet(condition.flatten(1))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        result: Tensor = self.outlet(hidden)
        return result
