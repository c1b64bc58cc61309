"""Langevin corrections: steps at one noise level that bring a sample to what that level's field describes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robopolicy.errors import ConfigError

if TYPE_CHECKING:
    from robopolicy.diffusion.denoiser import Denoiser

__all__ = ["Corrector", "langevin"]


@dataclass(frozen=True, kw_only=True)
class Corrector:
    """Langevin steps before each denoising step; the default is none.

    They matter where the field is not that of noised data: sums of policies, guidance, costs.
    """

    steps: int = 0
    eta: float = 0.2
    """Step length, in displacements to the clean estimate."""
    temperature: float = 1.0
    """Scales the noise: 1 samples the field's distribution, less seeks its modes, 0 climbs."""

    def __post_init__(self) -> None:
        if self.steps < 0 or not 0 < self.eta <= 1 or self.temperature < 0:
            raise ConfigError(f"corrector needs steps >= 0, 0 < eta <= 1 and temperature >= 0, got {self}.")


def langevin(
    denoiser: Denoiser,
    x: Tensor,
    sigma: float,
    noise: Tensor,
    *,
    eta: float,
    temperature: float = 1.0,
    clip: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """``x <- x + eta (D - x) + temperature sqrt(2 eta) sigma n`` for each n of `noise` `[S, B, Tp, Dz]`.

    At temperature 1 and small eta its stationary distribution is the one that D denoises, at noise `sigma`.
    """
    level, spread = x.new_full((len(x),), sigma), temperature * math.sqrt(2 * eta) * sigma
    for drawn in noise:
        clean = denoiser(x, level)
        if clip is not None:
            clean = torch.clamp(clean, clip[0], clip[1])
        x = torch.lerp(x, clean, eta) + spread * drawn
    return x
