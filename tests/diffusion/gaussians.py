"""Denoisers in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from robopolicy.diffusion.denoiser import Denoiser


def gaussian(mean: float | Tensor, deviation: float | Tensor) -> Denoiser:
    """The ideal denoiser of N(mean, deviation^2) data; numbers or `[Dz]`."""

    def estimate(x: Tensor, sigma: Tensor) -> Tensor:
        variance = deviation**2
        return mean + variance / (variance + sigma[:, None, None] ** 2) * (x - mean)

    return estimate


def path_end(x: Tensor, mean: float, deviation: float, start: float, end: float) -> Tensor:
    """Where the probability-flow equation takes `x` from noise `start` to noise `end`, for the same data."""
    return mean + (x - mean) * ((deviation**2 + end**2) / (deviation**2 + start**2)) ** 0.5


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard-normal float64 numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
