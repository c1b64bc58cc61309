"""Networks of reinforcement learning: critic ensembles as one batched call, and a squashed-Gaussian actor.

Under autocast their hidden layers run in bfloat16 and the last one in float32: 8 bits are too few to tell
values of one state apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["EDGE", "LOG_STD", "CriticEnsemble", "EnsembleLinear", "EnsembleNorm", "SquashedGaussian"]

LOG_STD = (-5.0, 2.0)
"""Bounds of the actor's log standard deviation, before squashing."""
EDGE = 1.0 - 1e-6
"""Actions are brought inside +-this before their density is asked for."""


class EnsembleLinear(nn.Module):
    """E independent linear layers, `[E, B, in]` to `[E, B, out]`; initialised as `nn.Linear` is."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """A two-dimensional `x` `[B, in]` is shared by all members."""
        return torch.baddbmm(self.bias, x.expand(len(self.weight), -1, -1), self.weight)


class EnsembleNorm(nn.Module):
    """LayerNorm with each member's own gain and shift."""

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(members, 1, width))
        self.shift = nn.Parameter(torch.zeros(members, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        """`[E, B, width]`."""
        normal = F.layer_norm(x, x.shape[-1:])
        return torch.addcmul(self.shift.to(normal.dtype), normal, self.gain.to(normal.dtype))


class CriticEnsemble(nn.Module):
    """E values of a state and, if it has one, an action.

    Args:
        inputs: size of state and action together.
        layer_norm: after every hidden layer, which bounds extrapolation (RLPD, Ball et al. 2023).
    """

    def __init__(self, members: int, inputs: int, hidden: Sequence[int], *, layer_norm: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers.append(EnsembleLinear(members, inputs, width))
            if layer_norm:
                layers.append(EnsembleNorm(members, width))
            layers.append(nn.ReLU())
            inputs = width
        self.layers = nn.Sequential(*layers, EnsembleLinear(members, inputs, 1))

    @torch.no_grad()
    def begin_at(self, value: float) -> None:
        """Make every value about this."""
        self.layers[-1].bias.fill_(value)  # type: ignore[operator]

    def forward(self, *parts: Tensor) -> Tensor:
        """State `[B, Ds]` and action `[B, Da]` to `[E, B]`."""
        return _last_in_float32(self.layers, torch.cat(parts, -1)).squeeze(-1)


class SquashedGaussian(nn.Module):
    """tanh of a Gaussian whose mean and deviation depend on the state: actions in (-1, 1).

    Args:
        final_scale: of the last layer's initial weights; 0 starts at mean 0 exactly.
    """

    def __init__(
        self,
        inputs: int,
        actions: int,
        hidden: Sequence[int],
        *,
        layer_norm: bool = False,
        initial_log_std: float = 0.0,
        final_scale: float = 1.0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers.append(nn.Linear(inputs, width))
            if layer_norm:
                layers.append(nn.LayerNorm(width))
            layers.append(nn.ReLU())
            inputs = width
        last = nn.Linear(inputs, 2 * actions)
        with torch.no_grad():
            last.weight *= final_scale
            last.bias.zero_()
            last.bias[actions:] = initial_log_std
        self.layers = nn.Sequential(*layers, last)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation before squashing, `[B, Da]` each."""
        mean, log_std = _last_in_float32(self.layers, state).chunk(2, -1)
        return mean, log_std.clamp(*LOG_STD)

    def sample(self, state: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Action `[B, Da]` made from standard-normal noise `[B, Da]`, and its log-density `[B]`."""
        mean, log_std = self(state)
        before = mean + log_std.exp() * noise
        return before.tanh(), _log_density(before, noise, log_std)

    def log_prob(self, state: Tensor, action: Tensor) -> Tensor:
        """Log-density `[B]` of given actions `[B, Da]`."""
        mean, log_std = self(state)
        before = action.clamp(-EDGE, EDGE).atanh()
        return _log_density(before, (before - mean) / log_std.exp(), log_std)


def _last_in_float32(layers: nn.Sequential, x: Tensor) -> Tensor:
    if not torch.is_autocast_enabled(x.device.type):
        return cast(Tensor, layers(x))
    *hidden, last = layers
    for layer in hidden:
        x = layer(x)
    with torch.autocast(x.device.type, enabled=False):
        return cast(Tensor, last(x.float()))


def _log_density(before: Tensor, noise: Tensor, log_std: Tensor) -> Tensor:
    normal = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)
    # log(1 - tanh(x)^2), written so that it does not underflow.
    slope = 2 * (math.log(2) - before - F.softplus(-2 * before))
    return (normal - slope).sum(-1)
