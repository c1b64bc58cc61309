"""From a network's output to an estimate of the clean chunk."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from robopolicy.diffusion.noise import noise_level

__all__ = [
    "Denoiser",
    "Network",
    "Prediction",
    "clean_estimate",
    "edm_scales",
    "network_scale",
    "training_target",
]

Prediction = Literal["epsilon", "sample", "velocity"]


class Network(Protocol):
    """(scaled noisy chunk `[B, Tp, Dz]`, noise level `[B]`, condition `[B, To, Dc]`) -> `[B, Tp, Dz]`."""

    def __call__(self, x: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        """Output in the network's own parameterisation."""
        ...


class Denoiser(Protocol):
    """(noisy chunk `[B, Tp, Dz]`, sigma `[B]`) -> clean estimate `[B, Tp, Dz]`; conditioning is bound."""

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[clean | x, sigma]."""
        ...


def network_scale(sigma: Tensor) -> Tensor:
    """What noisy chunks are multiplied by for the network, ``1 / sqrt(1 + sigma^2)``: `[B, 1, 1]`."""
    return torch.rsqrt(1 + sigma**2)[:, None, None]


def clean_estimate(
    network: Network, prediction: Prediction, x: Tensor, sigma: Tensor, condition: Tensor
) -> Tensor:
    """E[clean | x] from a network trained on `training_target`."""
    sigma_, scale = sigma[:, None, None], network_scale(sigma)
    output = network(x * scale, noise_level(sigma), condition).to(x.dtype)
    if prediction == "epsilon":
        return x - sigma_ * output
    if prediction == "sample":
        return output
    return scale**2 * x - sigma_ * scale * output


def training_target(prediction: Prediction, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """What the network regresses: noise, clean chunk, or v = (noise - sigma*clean)/sqrt(1+sigma^2)."""
    if prediction == "epsilon":
        return noise
    if prediction == "sample":
        return clean
    return (noise - sigma[:, None, None] * clean) * network_scale(sigma)


def edm_scales(sigma: Tensor, deviation: float) -> tuple[Tensor, Tensor, Tensor]:
    """c_skip, c_out and c_in of Karras et al. (2022) for data of this deviation, of sigma's shape.

    The denoiser is ``c_skip * x + c_out * network(c_in * x)``; the network's target has unit variance.
    """
    own = deviation**2
    total = sigma**2 + own
    return own / total, sigma * (own / total).sqrt(), total.rsqrt()
