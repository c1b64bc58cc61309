"""Attention of short sequences, with a path that can be differentiated twice."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robopolicy.errors import ConfigError

__all__ = [
    "Attention",
    "Positions",
    "Undecayed",
    "attend",
    "differentiate_twice",
    "initialise",
    "split_by_decay",
]


class Attention(nn.Module):
    """Multi-head attention of queries `[B, T, width]` to a context `[B, S, width]` (Vaswani et al. 2017).

    Torch's fused kernels have no second derivative (they raise): networks whose gradient is part of the loss,
    such as energies, call `differentiate_twice` once after construction.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"Attention: heads={heads} does not divide width={width}.")
        self.heads, self.dropout, self.twice = heads, dropout, False
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.outlet = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[B, T, width]`; `mask` bool `[T, S]` is True where a query may look."""
        query = self._split(self.query(x))
        key, value = (self._split(part) for part in self.key_value(context).chunk(2, -1))
        dropout = self.dropout if self.training else 0.0
        if self.twice:
            mixed = attend(query, key, value, mask, dropout)
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, mask, dropout)
        found: Tensor = self.outlet(mixed.transpose(1, 2).flatten(2))
        return found

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Scaled dot-product attention `[..., T, d]` in plain operations, which have all derivatives."""
    scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weight = scores.softmax(-1)
    return (F.dropout(weight, dropout) if dropout else weight) @ value


def differentiate_twice(module: nn.Module) -> None:
    """Make every attention inside `module` differentiable twice (and somewhat slower)."""
    for part in module.modules():
        if isinstance(part, Attention):
            part.twice = True


class Undecayed:
    """Mixed into a module: weight decay is for none of its own parameters."""


class Positions(Undecayed, nn.Module):
    """Learned position embeddings, added to tokens `[B, T, width]`."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(count, width))
        nn.init.normal_(self.table, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """The same shape."""
        return tokens + self.table


def initialise(module: nn.Module) -> None:
    """GPT's initialisation: linear weights N(0, 0.02), biases 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def split_by_decay(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters that weight decay is for, and those it is not for.

    Not for: biases, normalisation and position embeddings (after minGPT and Diffusion Policy), FDP's layers
    that start at zero.
    """
    spared = {
        id(p)
        for part in module.modules()
        if isinstance(part, (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, Undecayed))
        for p in part.parameters(recurse=False)
    }
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            free = id(parameter) in spared or name.rpartition(".")[2] == "bias"
            (undecayed if free else decayed).append(parameter)
    return decayed, undecayed
