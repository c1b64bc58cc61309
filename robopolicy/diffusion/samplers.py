"""Samplers: functions of a denoiser and a start, over precomputed coefficients.

With ``x = clean + sigma * noise`` the DDPM posterior and DDIM (Song et al. 2021, eq. 12) are one update,

    x' = D + sqrt(s'^2 - v) * (x - D) / s + sqrt(v) * z,      v = eta^2 s'^2 (s^2 - s'^2) / s^2

from noise level s to s', D the clean estimate at (x, s): eta = 0 is deterministic (and Euler's method for
dx/ds = (x - D) / s), eta = 1 is DDPM with the "fixed small" variance. A clipped D also bends the direction
(diffusers' `use_clipped_model_output`).

Coefficients are computed on the host and nothing is read back from the device: a solution is a fixed sequence
of kernels, for each step the denoiser, a clamp and one or two fused multiply-adds. Nothing in it waits.
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Self

import torch
from torch import Tensor

from robopolicy.diffusion.corrector import Corrector, langevin
from robopolicy.diffusion.denoiser import Denoiser
from robopolicy.diffusion.noise import Schedule, SigmaRange, sampling_sigmas
from robopolicy.errors import ConfigError
from robopolicy.registry import register

__all__ = [
    "DDIM",
    "DDPM",
    "Bounds",
    "Correct",
    "DDIMConfig",
    "DDPMConfig",
    "Sampler",
    "SamplerConfig",
    "Spacing",
    "Walk",
    "clean_at",
    "denoise",
]

Bounds = tuple[Tensor, Tensor]
Spacing = Literal["trailing", "linspace", "leading", "karras", "exponential"]
Correct = Callable[[int, Tensor], Tensor]
"""(step k, chunk at the k-th noise level) -> chunk at the same level."""


def clean_at(denoiser: Denoiser, x: Tensor, sigma: float, clip: Bounds | None) -> Tensor:
    """The denoiser's estimate for chunks `[B, Tp, Dz]` that all have noise `sigma`, within bounds `[Dz]`."""
    clean = denoiser(x, x.new_full((len(x),), sigma))
    return clean if clip is None else torch.clamp(clean, clip[0], clip[1])


def denoise(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    eta: float = 0.0,
    step_noise: Tensor | None = None,
    clip: Bounds | None = None,
    chain: list[Tensor] | None = None,
    correct: Correct | None = None,
) -> Tensor:
    """Denoise `x` `[B, Tp, Dz]` through `sigmas` `[K+1]` (descending) with DDPM or DDIM.

    Args:
        step_noise: `[K, B, Tp, Dz]`, needed for eta > 0 (the last is unused where sigmas end at 0).
        clip: bounds `[Dz]` for the clean estimate.
        chain: filled with the K+1 states, if given.
        correct: called at every noise level, before its step.
    """
    current, following = sigmas[:-1], sigmas[1:]
    variance = (eta * following / current) ** 2 * (current**2 - following**2)
    carry = ((following**2 - variance).clamp_min(0).sqrt() / current).tolist()
    spread, levels = variance.sqrt().tolist(), current.tolist()
    if chain is not None:
        chain.append(x)
    for k, sigma in enumerate(levels):
        if correct is not None:
            x = correct(k, x)
        x = torch.lerp(clean_at(denoiser, x, sigma, clip), x, carry[k])
        if spread[k] > 0:
            if step_noise is None:
                raise ConfigError("eta > 0 needs step noise.")
            x = x + spread[k] * step_noise[k]
        if chain is not None:
            chain.append(x)
    return x


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """What all samplers share."""

    steps: int = 10
    spacing: Spacing = "trailing"
    corrector: Corrector = field(default_factory=Corrector)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"A sampler needs steps >= 1, got {self.steps}.")


@dataclass(frozen=True)
class Walk:
    """How a sampler goes down its noise levels; the fields are arguments of `denoise`."""

    eta: float
    step_noise: Tensor | None
    clip: Bounds | None
    chain: list[Tensor] | None
    correct: Correct | None


class Sampler(abc.ABC):
    """Noise levels to visit, and the solver that visits them.

    A subclass is registered as ``@register("sampler", name)``, and says how to `advance`.
    """

    eta: float = 0.0
    """Share of each step's noise that is drawn afresh; 0 is deterministic."""

    def __init__(self, config: SamplerConfig, *, train_steps: int, schedule: Schedule) -> None:
        self.config, self.steps, self.corrector = config, config.steps, config.corrector
        self.train_steps, self.schedule = train_steps, schedule
        self.sigmas = sampling_sigmas(config.steps, train_steps, schedule, config.spacing)
        """`[K + 1]`, descending to 0."""

    @property
    def draws(self) -> int:
        """Standard-normal chunks that one `solve` consumes besides its start."""
        return self.steps * (bool(self.eta) + self.corrector.steps)

    def calls(self, *, corrected: bool = True) -> int:
        """How often one `solve`, with its corrector or without, asks the denoiser (NFE)."""
        return self.steps * (1 + (self.corrector.steps if corrected else 0))

    def below(self, skipped: int) -> Self:
        """This sampler without its first `skipped` noise levels.

        Raises:
            ConfigError: no level would be left.
        """
        if not 0 <= skipped < self.steps:
            raise ConfigError(
                f"Of {self.steps} denoising steps 0 to {self.steps - 1} can be skipped: {skipped}."
            )
        other = copy.copy(self)
        other.sigmas, other.steps = self.sigmas[skipped:], self.steps - skipped
        return other

    def start(self, noise: Tensor) -> Tensor:
        """The start for standard-normal `noise`: what a variance-preserving table calls x_T."""
        deviation = self.schedule.deviation if isinstance(self.schedule, SigmaRange) else 1.0
        return noise * float((deviation**2 + self.sigmas[0] ** 2).sqrt())

    def solve(
        self,
        denoiser: Denoiser,
        x: Tensor,
        *,
        step_noise: Tensor | None = None,
        clip: Bounds | None = None,
        chain: list[Tensor] | None = None,
    ) -> Tensor:
        """Denoise `x` `[B, Tp, Dz]`; without `step_noise` `[draws, B, Tp, Dz]` the deterministic way.

        That is with eta 0 and without the corrector, which is nothing but noise and its removal.

        Raises:
            ConfigError: a chain is asked of a solution whose steps have no density.
        """
        eta = 0.0 if step_noise is None else self.eta
        if chain is not None and (eta == 0 or self.corrector.steps):
            raise ConfigError(
                "A chain has a density only for ddpm, or ddim with sampler.eta > 0, without a corrector."
            )
        correct = None
        if step_noise is not None and self.corrector.steps:
            first = self.steps if eta else 0
            correct = self._correct(denoiser, step_noise[first:], clip)
        return self.advance(denoiser, x, Walk(eta, step_noise, clip, chain, correct))

    @abc.abstractmethod
    def advance(self, denoiser: Denoiser, x: Tensor, walk: Walk) -> Tensor:
        """From the first noise level to the last."""

    def _correct(self, denoiser: Denoiser, noise: Tensor, clip: Bounds | None) -> Correct:
        settings, levels = self.corrector, self.sigmas.tolist()
        drawn = noise.unflatten(0, (self.steps, settings.steps))

        def correct(k: int, x: Tensor) -> Tensor:
            return langevin(
                denoiser, x, levels[k], drawn[k],
                eta=settings.eta, temperature=settings.temperature, clip=clip,
            )  # fmt: skip

        return correct


@dataclass(frozen=True, kw_only=True)
class DDIMConfig(SamplerConfig):
    """DDIM (Song et al. 2021): few steps, deterministic for eta = 0."""

    eta: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.eta <= 1:
            raise ConfigError(f"ddim needs steps >= 1 and 0 <= eta <= 1, got {self.steps}, {self.eta}.")


@register("sampler", "ddim")
class DDIM(Sampler):
    """`steps` denoising steps from the top of a training table down to a clean chunk."""

    def __init__(self, config: DDIMConfig, *, train_steps: int, schedule: Schedule) -> None:
        super().__init__(config, train_steps=train_steps, schedule=schedule)
        self.eta = config.eta

    def advance(self, denoiser: Denoiser, x: Tensor, walk: Walk) -> Tensor:
        """`denoise`."""
        return denoise(
            denoiser, x, self.sigmas, eta=walk.eta, step_noise=walk.step_noise,
            clip=walk.clip, chain=walk.chain, correct=walk.correct,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DDPMConfig(SamplerConfig):
    """Ancestral sampling (Ho et al. 2020), over all training steps or a subset of them."""

    steps: int = 100


@register("sampler", "ddpm")
class DDPM(DDIM):
    """The stochastic reverse process with the "fixed small" variance: DDIM with eta 1."""

    def __init__(self, config: DDPMConfig, *, train_steps: int, schedule: Schedule) -> None:
        Sampler.__init__(self, config, train_steps=train_steps, schedule=schedule)
        self.eta = 1.0
