"""What diffusion-like policies share: an encoder, a denoiser, a sampler."""

from __future__ import annotations

import abc
import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from robopolicy.diffusion.denoiser import Denoiser
from robopolicy.diffusion.samplers import Bounds, Sampler
from robopolicy.policies.conditioned import ConditionedPolicy
from robopolicy.policies.policy import Generation, Request, draw
from robopolicy.registry import build, to_dict

__all__ = ["DenoisingPolicy", "run_sampler"]


class DenoisingPolicy(ConditionedPolicy):
    """Chunks by denoising: a subclass makes `sampler`, `clip` and `denoiser`, and has the loss."""

    capabilities = frozenset({"trainable", "noise", "chain", "gradient"})

    sampler: Sampler
    """That of the config (its field `sampler`)."""
    clip: bool
    """Clip the clean estimate to the range of the (encoded) data at every denoising step."""

    @property
    def evaluations(self) -> int:
        """Network evaluations in one call of the field."""
        return 1

    @abc.abstractmethod
    def denoiser(self, condition: Tensor) -> Denoiser:
        """E[clean chunk | noisy chunk, condition] for rows with these conditions `[N, To, Dc]`.

        Guidance, composition and costs wrap what this returns.
        """

    def field(self, observation: Mapping[str, Tensor], n: int = 1) -> Denoiser:
        """The denoiser for n chunks of each of the raw observations `[B, To, ...]`: rows `[B * n]`."""
        condition = self.condition(observation)
        return self.denoiser(condition.repeat_interleave(n, 0) if n > 1 else condition)

    def with_sampler(self, sampler: Mapping[str, Any]) -> Self:
        """A policy with the same weights, shared with this one, and another sampler.

        Args:
            sampler: ``{"name": "dpm", "steps": 5}``; without a name the present sampler with these changes.
        """
        present = to_dict("sampler", self.sampler)
        changed = {**present, **sampler} if "name" not in sampler else dict(sampler)
        other = copy.copy(self)
        other.sampler = build(
            "sampler", changed, train_steps=self.sampler.train_steps, schedule=self.sampler.schedule
        )
        other.config = dataclasses.replace(self.config, sampler=changed)
        return other

    def generate(self, observation: dict[str, Tensor], request: Request) -> Generation:
        """Denoise; a given noise selects the deterministic path (eta 0, no corrector) of the solver."""
        field = self.field(observation, request.noise.shape[1])
        clip = self.codec.action_bounds() if self.clip else None
        made = run_sampler(self.sampler, field, request, clip=clip)
        return dataclasses.replace(made, calls=made.calls * self.evaluations)


def run_sampler(
    sampler: Sampler,
    denoiser: Denoiser,
    request: Request,
    *,
    clip: Bounds | None,
    reference: Tensor | None = None,
) -> Generation:
    """Denoise from the noise; what the sampler draws besides is row by row the generators'.

    Args:
        reference: encoded chunks `[B * n, Tp, Dz]` that the noise of the first level is added to; without
            them the start is noise alone.
    """
    noise = request.noise
    batch, n = noise.shape[:2]
    step_noise = None
    if sampler.draws and not request.deterministic:
        shape = (batch, sampler.draws, n, *noise.shape[2:])
        step_noise = draw(shape, request.generator, noise.device).transpose(0, 1).flatten(1, 2)
    chain: list[Tensor] | None = [] if request.record else None
    start = noise.flatten(0, 1)
    start = sampler.start(start) if reference is None else reference + float(sampler.sigmas[0]) * start
    code = sampler.solve(denoiser, start, step_noise=step_noise, clip=clip, chain=chain)
    return Generation(
        code=code,
        chain=None if chain is None else torch.stack(chain),
        calls=sampler.calls(corrected=step_noise is not None),
    )
