"""What DPPO (Ren et al. 2025) leaves: a diffusion policy with a network of its own for the last steps."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robopolicy.codecs import Codec
from robopolicy.device import reduced
from robopolicy.diffusion.denoiser import Denoiser, clean_estimate
from robopolicy.errors import ConfigError
from robopolicy.policies.diffusion import DiffusionConfig, DiffusionPolicy
from robopolicy.registry import plain, register
from robopolicy.spec import Spec

__all__ = ["DPPOPolicy", "DPPOPolicyConfig"]


@dataclass(frozen=True, kw_only=True)
class DPPOPolicyConfig(DiffusionConfig):
    """A diffusion policy's, and how many of its last steps were fine-tuned."""

    finetuned_steps: int = 5


@register("policy", "dppo")
class DPPOPolicy(DiffusionPolicy):
    """`network` denoises the last K' of K steps, the frozen `base` those before (none if K' = K)."""

    capabilities = frozenset({"noise", "chain", "gradient"})
    base: nn.Module | None

    def __init__(self, config: DPPOPolicyConfig, *, spec: Spec, codec: Codec) -> None:
        super().__init__(config, spec=spec, codec=codec)
        steps, tuned = self.sampler.steps, config.finetuned_steps
        if not 1 <= tuned <= steps:
            raise ConfigError(f"finetuned_steps must be 1 to the sampler's {steps} steps, got {tuned}.")
        self.base = copy.deepcopy(self.network).requires_grad_(False) if tuned < steps else None
        levels = self.sampler.sigmas
        self._boundary = (
            float((levels[steps - tuned - 1] * levels[steps - tuned]).sqrt()) if tuned < steps else 0
        )

    @classmethod
    def of(cls, policy: DiffusionPolicy, sampler: Mapping[str, Any], finetuned_steps: int) -> DPPOPolicy:
        """A diffusion policy before its refinement, with networks of its own, in float32.

        In bfloat16 the rounding of means would move ratios by as much as they are allowed to move.
        """
        values = {f.name: getattr(policy.config, f.name) for f in dataclasses.fields(DiffusionConfig)}
        config = DPPOPolicyConfig(
            **{**values, "sampler": plain(sampler), "precision": "float32"}, finetuned_steps=finetuned_steps
        )
        made = cls(config, spec=policy.spec, codec=policy.codec).to(policy.device)
        made.encoder.load_state_dict(policy.encoder.state_dict())
        made.network.load_state_dict(policy.network.state_dict())
        if made.base is not None:
            made.base.load_state_dict(policy.network.state_dict())
        return made.eval()

    def denoiser(self, condition: Tensor) -> Denoiser:
        """Both networks as one estimate of the clean chunk."""
        late = self.late(condition)
        if self.base is None:
            return late
        early = self.early(condition)

        def estimate(x: Tensor, sigma: Tensor) -> Tensor:
            is_early = sigma > self._boundary
            if bool(is_early.all()):  # as in every sampler: a network is asked only where it counts
                return early(x, sigma)
            if not bool(is_early.any()):
                return late(x, sigma)
            return torch.where(is_early[:, None, None], early(x, sigma), late(x, sigma))

        return estimate

    def late(self, condition: Tensor) -> Denoiser:
        """The fine-tuned network's estimate."""
        return super().denoiser(condition)

    def early(self, condition: Tensor) -> Denoiser:
        """The frozen network's estimate."""

        def estimate(x: Tensor, sigma: Tensor) -> Tensor:
            return clean_estimate(self._base_network, self.config.prediction, x, sigma, condition)

        return estimate

    def _base_network(self, x: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        assert self.base is not None
        with reduced(self.config.precision, x.device):
            output: Tensor = self.base(x, level, condition)
        return output
