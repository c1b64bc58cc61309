"""Noise levels. One convention everywhere: a noisy chunk is ``x = clean + sigma * noise``.

Variance-preserving tables (DDPM) map to it by ``sigma = sqrt(1 - abar) / sqrt(abar)`` and
``x = x_vp / sqrt(abar) = x_vp * sqrt(1 + sigma**2)``.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robopolicy.errors import ConfigError, unknown

__all__ = [
    "KARRAS_RHO",
    "SCHEDULES",
    "SPACINGS",
    "Schedule",
    "SigmaRange",
    "noise_level",
    "sampling_sigmas",
    "sigma_table",
]

SCHEDULES = ("squaredcos_cap_v2", "linear", "scaled_linear")
SPACINGS = ("trailing", "linspace", "leading", "karras", "exponential")
KARRAS_RHO = 7.0


@dataclass(frozen=True)
class SigmaRange:
    """Noise levels evenly spaced in their logarithm, for policies trained on a continuum of them."""

    low: float
    high: float
    deviation: float = 1.0
    """Of the (encoded) data: chunks start as data of this deviation and mean 0 looks at the highest level."""

    def __post_init__(self) -> None:
        if not (0 < self.low < self.high and self.deviation >= 0):
            raise ConfigError(f"Noise levels need 0 < low < high and deviation >= 0, got {self}.")


Schedule = str | SigmaRange


@functools.cache
def sigma_table(steps: int, schedule: Schedule) -> Tensor:
    """sigma of training steps 0..T-1, float64 `[T]`, ascending; named schedules have diffusers' betas."""
    if isinstance(schedule, SigmaRange):
        return torch.linspace(
            math.log(schedule.low), math.log(schedule.high), steps, dtype=torch.float64
        ).exp()
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    if schedule not in SCHEDULES:
        raise ConfigError(unknown("noise schedule", schedule, SCHEDULES))
    betas = DDPMScheduler(num_train_timesteps=steps, beta_schedule=schedule).betas
    alphas = torch.cumprod(1 - betas, 0).double()
    return ((1 - alphas) / alphas).sqrt()


@functools.cache
def sampling_sigmas(steps: int, train_steps: int, schedule: Schedule, spacing: str = "trailing") -> Tensor:
    """sigma of each denoising step, float64 `[K + 1]`, descending to a final 0.

    "trailing" and "linspace" start at the top of the training table; diffusers' "leading" does not. "karras"
    (Karras et al. 2022, eq. 5) and "exponential" are laid between the table's ends, whatever lies in between.
    """
    table = sigma_table(train_steps, schedule)
    if spacing in ("karras", "exponential"):
        if steps < 1:
            raise ConfigError(f"Denoising steps must be at least 1, got {steps}.")
        share = torch.linspace(0, 1, steps, dtype=torch.float64)
        if spacing == "exponential":
            found = (table[-1].log() * (1 - share) + table[0].log() * share).exp()
        else:
            top, bottom = table[-1] ** (1 / KARRAS_RHO), table[0] ** (1 / KARRAS_RHO)
            found = (top + share * (bottom - top)) ** KARRAS_RHO
        return torch.cat([found, table.new_zeros(1)])
    if not 1 <= steps <= train_steps:
        raise ConfigError(f"Denoising steps must be 1 to {train_steps}, got {steps}.")
    if spacing == "trailing":
        indices = [round(train_steps - i * train_steps / steps) - 1 for i in range(steps)]
    elif spacing == "linspace":
        indices = (
            torch.linspace(train_steps - 1, 0, steps).round().long().tolist()
            if steps > 1
            else [train_steps - 1]
        )
    elif spacing == "leading":
        indices = [i * (train_steps // steps) for i in range(steps)][::-1]
    else:
        raise ConfigError(unknown("spacing", spacing, SPACINGS))
    return torch.cat([table[indices], table.new_zeros(1)])


def noise_level(sigma: Tensor) -> Tensor:
    """What networks are told of sigma: 0 for none, towards 100 for pure noise.

    For the cosine schedule with T = 100 this is the training step to within one (its sigma is a tangent).
    """
    return torch.atan(sigma) * (200.0 / math.pi)
