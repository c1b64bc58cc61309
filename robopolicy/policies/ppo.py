"""What Gaussian PPO leaves: a Gaussian policy that draws close to its mean."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from torch import Tensor

from robopolicy.codecs import Codec
from robopolicy.policies.gaussian import GaussianConfig, GaussianPolicy
from robopolicy.registry import register
from robopolicy.spec import Spec

__all__ = ["PPOPolicy", "PPOPolicyConfig"]


@dataclass(frozen=True, kw_only=True)
class PPOPolicyConfig(GaussianConfig):
    """A Gaussian policy's, and a cap on its standard deviation."""

    cap: float = 1e-3


@register("policy", "ppo")
class PPOPolicy(GaussianPolicy):
    """The Gaussian it practised with, but no wider than the cap."""

    capabilities = frozenset({"noise", "density", "gradient"})
    config: PPOPolicyConfig

    def __init__(self, config: PPOPolicyConfig, *, spec: Spec, codec: Codec) -> None:
        super().__init__(config, spec=spec, codec=codec)

    @classmethod
    def of(cls, policy: GaussianPolicy) -> PPOPolicy:
        """A Gaussian policy before its refinement, with weights of its own."""
        values = {f.name: getattr(policy.config, f.name) for f in dataclasses.fields(GaussianConfig)}
        made = cls(PPOPolicyConfig(**values), spec=policy.spec, codec=policy.codec).to(policy.device)
        made.load_state_dict(policy.state_dict())
        return made.eval()

    def moments(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the standard deviation, `[N, Tp, Dz]` each."""
        return self.within(condition, min(self.config.min_std, self.config.cap), self.config.cap)

    def within(self, condition: Tensor, least: float, most: float) -> tuple[Tensor, Tensor]:
        """`moments` with other bounds of the standard deviation."""
        mean, log_std = super().moments(condition)
        return mean, log_std.clamp(math.log(least), math.log(most))
