"""Noise levels. One convention everywhere: a noisy chunk is ``x = clean + sigma * noise``.

Variance-preserving tables (DDPM) map to it by ``sigma = sqrt(1 - abar) / sqrt(abar)`` and
``x = x_vp / sqrt(abar) = x_vp * sqrt(1 + sigma**2)``.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from robopolicy.errors import ConfigError, unknown

SCHEDULES = ("squaredcos_cap_v2", "linear", "scaled_linear")
SPACINGS = ("trailing", "linspace", "leading")


@functools.cache
def sigma_table(steps: int, schedule: str) -> Tensor:
    """sigma of training steps 0..T-1, float64 `[T]`, ascending; betas are diffusers'."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    if schedule not in SCHEDULES:
        raise ConfigError(unknown("noise schedule", schedule, SCHEDULES))
    betas = DDPMScheduler(num_train_timesteps=steps, beta_schedule=schedule).betas
    alphas = torch.cumprod(1 - betas, 0).double()
    return ((1 - alphas) / alphas).sqrt()


@functools.cache
def sampling_sigmas(steps: int, train_steps: int, schedule: str, spacing: str = "trailing") -> Tensor:
    """sigma of each denoising step, float64 `[K + 1]`, descending to a final 0.

    "trailing" and "linspace" start at the top of the table; diffusers' "leading" does not.
    """
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
    table = sigma_table(train_steps, schedule)
    return torch.cat([table[indices], table.new_zeros(1)])


def noise_level(sigma: Tensor) -> Tensor:
    """What networks are told of sigma: 0 for none, towards 100 for pure noise.

    For the cosine schedule with T = 100 this is the training step to within one (its sigma is a tangent).
    """
    return torch.atan(sigma) * (200.0 / math.pi)
