"""Energies of chunks: denoising with their gradient, and the descent of EBT-Policy.

Two kinds, not to be mixed. A noise-conditional energy E(x, sigma) trained by denoising gives
``D = x - sigma^2 dE/dx``, a `Denoiser` like any other. The energy of EBT-Policy knows no noise level and
comes with the descent that it was trained through; its gradient is no score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from robopolicy.errors import ConfigError

__all__ = [
    "BudgetConfig",
    "Descent",
    "DescentConfig",
    "DescentStep",
    "Energy",
    "denoised",
    "descend",
    "descent_step",
    "energy_and_slope",
    "langevin_scale",
    "normalized",
]


class Energy(Protocol):
    """(chunk `[N, Tp, Dz]`) -> energy `[N]`; conditioning is bound."""

    def __call__(self, x: Tensor) -> Tensor:
        """Smaller is better."""
        ...


def energy_and_slope(energy: Energy, x: Tensor, *, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """E `[N]` and dE/dx `[N, Tp, Dz]`, also inside `torch.no_grad` and for frozen weights.

    Args:
        create_graph: keep both differentiable, for training through them.

    Raises:
        ConfigError: inside `torch.inference_mode`, where no gradient can be had.
    """
    if torch.is_inference_mode_enabled():
        raise ConfigError("An energy's actions need gradients: use torch.no_grad, not torch.inference_mode.")
    with torch.enable_grad():
        if not x.requires_grad:
            x = x.detach().requires_grad_()
        value = energy(x)
        (slope,) = torch.autograd.grad(value.sum(), x, create_graph=create_graph)
    return (value, slope) if create_graph else (value.detach(), slope)


def denoised(
    energy: Energy, x: Tensor, sigma: Tensor, *, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """The clean estimate ``x - sigma^2 dE/dx`` `[N, Tp, Dz]` for noise levels `[N]`, and E `[N]`."""
    value, slope = energy_and_slope(energy, x, create_graph=create_graph)
    return x - sigma[:, None, None] ** 2 * slope, value


@dataclass(frozen=True, kw_only=True)
class DescentConfig:
    """One step of EBT-Policy (arXiv 2510.27545). Two numbers differ from theirs in form, not in effect.

    Their alpha multiplies the gradient of an energy that is a mean over Tp x Dz entries, and is divided by
    a temperature: ``step_size = alpha / (temperature * Tp * Dz)``, so that 1 suits every chunk size (their
    1000, 9 and 16 x 7 make 0.99). Their root mean squares are over the whole batch, ours over each chunk.
    """

    step_size: float = 1.0
    momentum: float = 0.9
    energy_limit: float = 3.0
    """Energies are clamped to +-this before their exponential scales the step."""
    normalize: bool = True
    """Scale every chunk to a root mean square of 1 before each step."""

    def __post_init__(self) -> None:
        if self.step_size <= 0 or not 0 <= self.momentum < 1 or self.energy_limit <= 0:
            raise ConfigError(f"descent needs step_size, energy_limit > 0 and 0 <= momentum < 1, got {self}.")


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """When a descent ends: what corresponds to a denoising policy's sampler."""

    name: Literal["descent"] = "descent"
    steps: int = 20
    """At most, a forward and a backward pass each."""
    tolerance: float = 0.01
    """A chunk is finished when a step moves it by at most this (root mean square)."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.tolerance < 0:
            raise ConfigError(
                f"descent needs steps >= 1 and tolerance >= 0, got {self.steps}, {self.tolerance}."
            )


@dataclass(frozen=True)
class DescentStep:
    """Where a step led."""

    x: Tensor
    """`[N, Tp, Dz]`."""
    velocity: Tensor
    """`[N, Tp, Dz]`."""
    energy: Tensor
    """`[N]`, at the point looked ahead to."""
    slope: Tensor
    """`[N]`, root mean square of the energy's gradient times Tp * Dz (so, of the sum of the entries)."""
    scale: Tensor
    """`[N]`, exp(energy) after the clamp: what the step size was multiplied by."""


def descent_step(
    energy: Energy,
    x: Tensor,
    velocity: Tensor,
    config: DescentConfig,
    *,
    noise: Tensor | None = None,
    rate: Tensor | None = None,
    create_graph: bool = False,
) -> DescentStep:
    """Nesterov descent with the step size scaled by exp(E), on a chunk normalised by itself.

    Args:
        noise: added after normalising, `[N, Tp, Dz]` (annealed Langevin noise).
        rate: factors of the step size, `[N]`.
        create_graph: make this step differentiable with respect to the weights; never the earlier ones.
    """
    x, velocity = x.detach(), velocity.detach()
    if config.normalize:
        x = normalized(x)
    if noise is not None:
        x = x + noise
    value, slope = energy_and_slope(energy, x + config.momentum * velocity, create_graph=create_graph)
    slope = slope * slope[0].numel()
    scale = value.clamp(-config.energy_limit, config.energy_limit).exp()
    size = config.step_size * (scale if rate is None else scale * rate)
    velocity = config.momentum * velocity - size[:, None, None] * slope
    return DescentStep(x + velocity, velocity, value, _rms(slope.detach()), scale.detach())


@dataclass(frozen=True)
class Descent:
    """The end of a descent."""

    x: Tensor
    """`[N, Tp, Dz]`."""
    steps: Tensor
    """int64 `[N]`: steps until each chunk's own convergence, a forward and a backward pass each."""


def descend(energy: Energy, x: Tensor, config: DescentConfig, budget: BudgetConfig) -> Descent:
    """Step until a chunk hardly moves or the budget is spent.

    Every chunk stops by itself: one that rests stays where it is while others go on. EBT-Policy watches the
    gradient instead. But where chunks are normalised before each step and their own root mean square is not
    1, they come to rest where gradient and normalisation balance, and the gradient never gets small.
    """
    velocity = torch.zeros_like(x)
    steps = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    going = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for _ in range(budget.steps):
        step = descent_step(energy, x, velocity, config)
        moved = _rms(step.x - x)
        x = torch.where(going[:, None, None], step.x, x)
        velocity = step.velocity
        steps += going
        going = going & (moved > budget.tolerance)
        if not going.any():
            break
    return Descent(x, steps)


def langevin_scale(step: int, steps: int, largest: float, smallest: float) -> float:
    """Noise of step `step` of `steps`: a half cosine from `largest` down to `smallest`."""
    return smallest + 0.5 * (largest - smallest) * (1 + math.cos(math.pi * step / steps))


def normalized(x: Tensor) -> Tensor:
    """Each chunk `[N, Tp, Dz]` divided by its own root mean square."""
    return x / _rms(x)[:, None, None].clamp_min(1e-6)


def _rms(x: Tensor) -> Tensor:
    return x.square().mean((1, 2)).sqrt()
