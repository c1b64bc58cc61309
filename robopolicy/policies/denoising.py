"""What diffusion-like policies share: an encoder, a denoiser, a sampler."""

from __future__ import annotations

import abc
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from robopolicy.diffusion.denoiser import Denoiser
from robopolicy.diffusion.samplers import Sampler
from robopolicy.policies.policy import Generation, Generators, Policy, draw


class DenoisingPolicy(Policy):
    """Chunks by denoising: a subclass makes `encoder`, `sampler`, `clip` and `denoiser`, and has the loss."""

    capabilities = frozenset({"trainable", "noise", "chain", "gradient"})

    encoder: nn.Module
    """Encoded observations to the condition `[B, To, Dc]`."""
    sampler: Sampler
    clip: bool
    """Clip the clean estimate to the range of the (encoded) data at every denoising step."""

    def condition(self, observation: Mapping[str, Tensor]) -> Tensor:
        """`[B, To, Dc]` from raw observations `[B, To, ...]`."""
        condition: Tensor = self.encoder(self.codec.encode_observation(observation))
        return condition

    @abc.abstractmethod
    def denoiser(self, condition: Tensor) -> Denoiser:
        """E[clean chunk | noisy chunk, condition] for rows with these conditions `[N, To, Dc]`.

        Guidance, composition and costs wrap what this returns.
        """

    def generate(
        self,
        observation: dict[str, Tensor],
        noise: Tensor,
        generator: Generators,
        *,
        deterministic: bool,
        record: bool,
    ) -> Generation:
        """Denoise; a given noise selects the deterministic path (eta = 0) of the same solver."""
        batch, n = noise.shape[:2]
        condition = self.condition(observation)
        if n > 1:
            condition = condition.repeat_interleave(n, 0)
        step_noise = None
        if self.sampler.draws and not deterministic:
            shape = (batch, self.sampler.draws, n, *noise.shape[2:])
            step_noise = draw(shape, generator, noise.device).transpose(0, 1).flatten(1, 2)
        chain: list[Tensor] | None = [] if record else None
        code = self.sampler.solve(
            self.denoiser(condition),
            self.sampler.start(noise.flatten(0, 1)),
            step_noise=step_noise,
            clip=self.codec.action_bounds() if self.clip else None,
            chain=chain,
        )
        return Generation(code=code, chain=None if chain is None else torch.stack(chain))
