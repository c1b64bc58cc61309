"""DDPM and DDIM whose steps keep some noise: what reinforcement learning explores with, and has densities of.

With ``x = clean + sigma * noise`` a step from level s to s' is Gaussian,

    x' ~ N(D + carry * (x - D), deviation^2),    carry = sqrt(s'^2 - v) / s,    deviation = sqrt(v)

(`samplers.py` has v). DPPO (Ren et al. 2025) raises small deviations to a floor, the last step's 0 included,
and leaves the mean as it is. Its floors are in the units of a variance-preserving chain,
x_vp = x / sqrt(1 + s'^2), so in ours a floor f is ``f * sqrt(1 + s'^2)``.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from robopolicy.diffusion.denoiser import Denoiser
from robopolicy.diffusion.noise import Schedule
from robopolicy.diffusion.samplers import Sampler, SamplerConfig, Walk, clean_at, denoise
from robopolicy.errors import ConfigError
from robopolicy.registry import register

__all__ = ["Floored", "FlooredConfig"]


@dataclass(frozen=True, kw_only=True)
class FlooredConfig(SamplerConfig):
    """Noise of the steps."""

    eta: float = 1.0
    """1 is DDPM; less is DDIM with less noise."""
    floor: float = 1e-3
    """Least deviation of a step, in variance-preserving units."""
    last: bool = False
    """Whether the floor holds for the last step too, which otherwise adds no noise."""
    noise_clip: float = 3.0
    """Standard-normal draws are clipped to this."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.eta <= 1:
            raise ConfigError(
                f"floored needs 0 < eta <= 1 (a deterministic chain has no density), got {self.eta}."
            )
        if self.floor <= 0 or self.noise_clip <= 0 or self.corrector.steps:
            raise ConfigError(f"floored needs floor, noise_clip > 0 and no corrector, got {self}.")
        if self.spacing == "leading":
            warnings.warn(
                "spacing=leading begins below the noise that a chain starts from: compare the base's success "
                "with spacing=trailing.",
                stacklevel=2,
            )


@register("sampler", "floored")
class Floored(Sampler):
    """Ancestral sampling with a least noise of every step."""

    config: FlooredConfig

    def __init__(self, config: FlooredConfig, *, train_steps: int, schedule: Schedule) -> None:
        super().__init__(config, train_steps=train_steps, schedule=schedule)
        self.eta = config.eta
        current, following = self.sigmas[:-1], self.sigmas[1:]
        variance = (config.eta * following / current) ** 2 * (current**2 - following**2)
        self.carry = (following**2 - variance).clamp_min(0).sqrt() / current
        """`[K]`, float64."""
        self.scale = (1 + following**2).sqrt()
        """`[K]`: a variance-preserving state times this is ours."""
        self.deviation = self.raised(config.floor)
        """`[K]`, of the noise added by each step."""
        if not config.last:
            self.deviation[-1] = 0.0

    def raised(self, floor: float) -> Tensor:
        """Deviations `[K]` of the steps with a floor on all of them, in our units."""
        current, following = self.sigmas[:-1], self.sigmas[1:]
        spread = self.config.eta * following / current * (current**2 - following**2).sqrt()
        return torch.maximum(spread, floor * self.scale)

    def below(self, skipped: int) -> Self:
        """As the base class has it."""
        other = super().below(skipped)
        other.carry, other.scale = self.carry[skipped:], self.scale[skipped:]
        other.deviation = self.deviation[skipped:]
        return other

    def advance(self, denoiser: Denoiser, x: Tensor, walk: Walk) -> Tensor:
        """From the first noise level to the last; with eta 0 the plain deterministic way."""
        clip, chain = walk.clip, walk.chain
        if walk.eta == 0 or walk.step_noise is None:
            return denoise(denoiser, x, self.sigmas, clip=clip, chain=chain, correct=walk.correct)
        noise = walk.step_noise.clamp(-self.config.noise_clip, self.config.noise_clip)
        levels, carry, deviation = self.sigmas.tolist(), self.carry.tolist(), self.deviation.tolist()
        if chain is not None:
            chain.append(x)
        for k in range(self.steps):
            x = torch.lerp(clean_at(denoiser, x, levels[k], clip), x, carry[k])
            x = x + deviation[k] * noise[k] if deviation[k] else x
            if chain is not None:
                chain.append(x)
        return x
