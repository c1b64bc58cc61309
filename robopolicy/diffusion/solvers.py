"""Deterministic solvers of higher order for dx/ds = (x - D) / s: fewer steps for the same chunk."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from robopolicy.diffusion.denoiser import Denoiser
from robopolicy.diffusion.noise import Schedule
from robopolicy.diffusion.samplers import Bounds, Correct, Sampler, SamplerConfig, Walk, clean_at
from robopolicy.registry import register

__all__ = ["DPM", "DPMConfig", "Heun", "HeunConfig", "dpm_multistep", "heun"]


def heun(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    clip: Bounds | None = None,
    correct: Correct | None = None,
) -> Tensor:
    """Heun's method (Karras et al. 2022, algorithm 2): order 2, two denoiser calls a step.

    The step to noise 0, where the slope has no limit, is Euler's: one call.
    """
    levels = sigmas.tolist()
    for k, (sigma, following) in enumerate(itertools.pairwise(levels)):
        if correct is not None:
            x = correct(k, x)
        clean = clean_at(denoiser, x, sigma, clip)
        ahead = torch.lerp(clean, x, following / sigma)
        if following > 0:
            slope = (x - clean) / sigma + (ahead - clean_at(denoiser, ahead, following, clip)) / following
            ahead = torch.add(x, slope, alpha=0.5 * (following - sigma))
        x = ahead
    return x


def dpm_multistep(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    clip: Bounds | None = None,
    correct: Correct | None = None,
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): order 2 with one denoiser call a step.

    Each step extrapolates D from the last two, in log noise. The first step, and the one to noise 0, use
    their own D alone; so do all with a corrector, which leaves the path the last D was on.
    """
    levels = sigmas.tolist()
    gap = (sigmas[:-1].log() - sigmas[1:].log()).tolist()
    before: Tensor | None = None
    for k, (sigma, following) in enumerate(itertools.pairwise(levels)):
        if correct is not None:
            x = correct(k, x)
        clean = clean_at(denoiser, x, sigma, clip)
        estimate = clean
        if before is not None and following > 0 and correct is None:
            estimate = torch.lerp(before, clean, 1 + gap[k] / (2 * gap[k - 1]))
        x = torch.lerp(estimate, x, following / sigma)
        before = clean
    return x


@dataclass(frozen=True, kw_only=True)
class DPMConfig(SamplerConfig):
    """DPM-Solver++(2M)."""


@register("sampler", "dpm")
class DPM(Sampler):
    """`dpm_multistep` over the sampler's noise levels."""

    def __init__(self, config: DPMConfig, *, train_steps: int, schedule: Schedule) -> None:
        super().__init__(config, train_steps=train_steps, schedule=schedule)

    def advance(self, denoiser: Denoiser, x: Tensor, walk: Walk) -> Tensor:
        """Deterministic but for the corrector."""
        return dpm_multistep(denoiser, x, self.sigmas, clip=walk.clip, correct=walk.correct)


@dataclass(frozen=True, kw_only=True)
class HeunConfig(SamplerConfig):
    """Heun's method, for noise that starts low, as BESO's.

    From the top of a cosine schedule (sigma 2000) ten of its steps are too long: use dpm or ddim.
    """


@register("sampler", "heun")
class Heun(Sampler):
    """`heun` over the sampler's noise levels."""

    def __init__(self, config: HeunConfig, *, train_steps: int, schedule: Schedule) -> None:
        super().__init__(config, train_steps=train_steps, schedule=schedule)

    def calls(self, *, corrected: bool = True) -> int:
        """Two a step, but one in the last."""
        return super().calls(corrected=corrected) + self.steps - 1

    def advance(self, denoiser: Denoiser, x: Tensor, walk: Walk) -> Tensor:
        """Deterministic but for the corrector."""
        return heun(denoiser, x, self.sigmas, clip=walk.clip, correct=walk.correct)
