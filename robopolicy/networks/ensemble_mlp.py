"""Several residual MLPs that denoise vectors, as one batched call."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robopolicy.networks.critic import EnsembleLinear, EnsembleNorm
from robopolicy.networks.embedding import level_encoder
from robopolicy.networks.mish import Mish

__all__ = ["EnsembleMLP"]


class EnsembleMLP(nn.Module):
    """E networks of (noisy vector, noise level, context) with separate weights; the outputs begin at zero.

    The context is computed once for all noise levels (`context`).
    """

    def __init__(
        self, members: int, size: int, condition: int, *, width: int, blocks: int, embedding: int = 32
    ) -> None:
        super().__init__()
        self.level = nn.Sequential(level_encoder(embedding), nn.Linear(embedding, width))
        self.context = EnsembleLinear(members, condition, width)
        self.inlet = EnsembleLinear(members, size, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                EnsembleNorm(members, width),
                EnsembleLinear(members, width, width),
                Mish(),
                EnsembleLinear(members, width, width),
            )
            for _ in range(blocks)
        )
        last = EnsembleLinear(members, width, size)
        with torch.no_grad():
            last.weight.zero_()
            last.bias.zero_()
        self.outlet = nn.Sequential(EnsembleNorm(members, width), last)

    def forward(self, x: Tensor, level: Tensor, context: Tensor) -> Tensor:
        """`[E, B, size]`, levels `[E * B]` or one for all `[1]`, `[E, B, width]` -> `[E, B, size]`."""
        encoded = self.level(level)
        if len(level) > 1:
            encoded = encoded.view(*x.shape[:2], -1)
        hidden = self.inlet(x) + encoded + context
        for block in self.blocks:
            hidden = hidden + block(hidden)
        result: Tensor = self.outlet(hidden)
        return result
