"""Samplers: functions of a denoiser and a start, over precomputed coefficients.

With ``x = clean + sigma * noise`` the DDPM posterior and DDIM (Song et al. 2021, eq. 12) are one update,

    x' = D + sqrt(s'^2 - v) * (x - D) / s + sqrt(v) * z,      v = eta^2 s'^2 (s^2 - s'^2) / s^2

from noise level s to s', D the clean estimate at (x, s): eta = 0 is deterministic, eta = 1 is DDPM with the
"fixed small" variance. A clipped D also bends the direction (diffusers' `use_clipped_model_output`).
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robopolicy.diffusion.denoiser import Denoiser
from robopolicy.diffusion.noise import sampling_sigmas
from robopolicy.errors import ConfigError
from robopolicy.registry import register

Bounds = tuple[Tensor, Tensor]
Spacing = Literal["trailing", "linspace", "leading"]


def denoise(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    eta: float = 0.0,
    step_noise: Tensor | None = None,
    clip: Bounds | None = None,
    chain: list[Tensor] | None = None,
) -> Tensor:
    """Denoise `x` `[B, Tp, Dz]` through `sigmas` `[K+1]` (descending).

    Args:
        step_noise: `[K, B, Tp, Dz]`, needed for eta > 0 (the last is unused where sigmas end at 0).
        clip: bounds `[Dz]` for the clean estimate.
        chain: filled with the K+1 states, if given.
    """
    current, following = sigmas[:-1], sigmas[1:]
    variance = (eta * following / current) ** 2 * (current**2 - following**2)
    carry = ((following**2 - variance).clamp_min(0).sqrt() / current).tolist()
    spread = variance.sqrt().tolist()
    levels = current.to(device=x.device, dtype=x.dtype)[:, None].expand(-1, len(x))
    if chain is not None:
        chain.append(x)
    for k in range(len(carry)):
        clean = denoiser(x, levels[k])
        if clip is not None:
            clean = torch.clamp(clean, clip[0], clip[1])
        x = torch.lerp(clean, x, carry[k])
        if spread[k] > 0:
            if step_noise is None:
                raise ConfigError("eta > 0 needs step noise.")
            x = x + spread[k] * step_noise[k]
        if chain is not None:
            chain.append(x)
    return x


class Sampler(abc.ABC):
    """Noise levels to visit, and the solver that visits them."""

    steps: int
    """K, the denoising steps."""
    eta: float
    """Share of each step's noise that is drawn afresh; 0 is deterministic."""
    sigmas: Tensor
    """`[K + 1]`, descending to 0."""

    @property
    def draws(self) -> int:
        """Standard-normal chunks that one `solve` consumes besides its start."""
        return self.steps if self.eta > 0 else 0

    def start(self, noise: Tensor) -> Tensor:
        """The start for standard-normal `noise`: what a variance-preserving table calls x_T."""
        return noise * float((1 + self.sigmas[0] ** 2).sqrt())

    def solve(
        self,
        denoiser: Denoiser,
        x: Tensor,
        *,
        step_noise: Tensor | None = None,
        clip: Bounds | None = None,
        chain: list[Tensor] | None = None,
    ) -> Tensor:
        """Denoise `x` `[B, Tp, Dz]`; without `step_noise` `[draws, B, Tp, Dz]` the deterministic way (eta 0).

        Raises:
            ConfigError: a chain is asked of a deterministic solution, whose steps have no density.
        """
        eta = 0.0 if step_noise is None else self.eta
        if chain is not None and eta == 0:
            raise ConfigError("A chain has a density only for ddpm, or ddim with sampler.eta > 0.")
        return denoise(denoiser, x, self.sigmas, eta=eta, step_noise=step_noise, clip=clip, chain=chain)


@dataclass(frozen=True, kw_only=True)
class DDIMConfig:
    """DDIM (Song et al. 2021): few steps, deterministic for eta = 0."""

    steps: int = 10
    eta: float = 0.0
    spacing: Spacing = "trailing"

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.eta <= 1:
            raise ConfigError(f"ddim needs steps >= 1 and 0 <= eta <= 1, got {self.steps}, {self.eta}.")


@register("sampler", "ddim")
class DDIM(Sampler):
    """`steps` denoising steps from the top of a training table down to a clean chunk."""

    def __init__(self, config: DDIMConfig, *, train_steps: int, schedule: str) -> None:
        self.config, self.steps, self.eta = config, config.steps, config.eta
        self.sigmas = sampling_sigmas(config.steps, train_steps, schedule, config.spacing)


@dataclass(frozen=True, kw_only=True)
class DDPMConfig:
    """Ancestral sampling (Ho et al. 2020), over all training steps or a subset of them."""

    steps: int = 100
    spacing: Spacing = "trailing"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"ddpm needs steps >= 1, got {self.steps}.")


@register("sampler", "ddpm")
class DDPM(Sampler):
    """The stochastic reverse process with the "fixed small" variance."""

    def __init__(self, config: DDPMConfig, *, train_steps: int, schedule: str) -> None:
        self.config, self.steps, self.eta = config, config.steps, 1.0
        self.sigmas = sampling_sigmas(config.steps, train_steps, schedule, config.spacing)
