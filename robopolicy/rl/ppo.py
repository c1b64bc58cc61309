"""PPO (Schulman et al. 2017) for a cloned Gaussian policy: DPPO's baseline, from the same code."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robopolicy.errors import ConfigError
from robopolicy.policies.gaussian import GaussianPolicy, log_density
from robopolicy.policies.policy import Policy
from robopolicy.policies.ppo import PPOPolicy
from robopolicy.registry import register
from robopolicy.rl.proximal import LOG_PROB_RANGE, Drawn, Proximal, ProximalConfig
from robopolicy.vector import LaneVectorEnv

__all__ = ["PPO", "PPOConfig"]


@dataclass(frozen=True, kw_only=True)
class PPOConfig(ProximalConfig):
    """As DPPO's, where they share something."""

    batch_size: int = 600
    """Chunks."""
    actor_rate: float = 3e-5
    clip: float = 0.05
    """Of the mean log-ratio of an entry."""
    min_std: float = 0.1
    """Of encoded actions while practising. A clone's own is small where its demonstrations agree, and there
    one update moves every ratio out of its range."""
    max_std: float = 0.1
    """As min_std: chunks are drawn, and densities taken, with a deviation between the two."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.clip < 1 or not 0 < self.min_std <= self.max_std:
            raise ConfigError(
                "ppo needs 0 < clip < 1 and 0 < min_std <= max_std, got "
                f"{self.clip}, {self.min_std}, {self.max_std}."
            )


@register("method", "ppo")
class PPO(Proximal):
    """A chunk is drawn in one stage, from nothing."""

    requires = frozenset({"density"})
    stages = 1

    def __init__(
        self, config: PPOConfig, *, policy: Policy, envs: LaneVectorEnv, seed: int, offset: int = 0
    ) -> None:
        policy.require(*self.requires)
        if not isinstance(policy, GaussianPolicy) or isinstance(policy, PPOPolicy):
            raise ConfigError(f"ppo refines policies of policy=gaussian, not {type(policy).__name__}.")
        super().__init__(config, policy, envs, seed=seed, offset=offset)
        self.config = config
        self.tuned = PPOPolicy.of(policy)
        self.actor = self.tuned.network
        self.weight = torch.ones(1, device=policy.device)
        self.clip = torch.full((1,), config.clip, device=policy.device)
        self._optimizers()

    @torch.no_grad()
    def draw(self, condition: Tensor) -> Drawn:
        """A chunk for every condition."""
        mean, log_std = self._moments(condition)
        noise = torch.randn(mean.shape, generator=self.generator, device=mean.device)
        code = mean + log_std.exp() * noise
        trace = torch.stack([torch.zeros_like(code), code], 1)
        return Drawn(code=code, trace=trace, log_prob=self._density(code, mean, log_std)[:, None])

    def log_prob(self, condition: Tensor, before: Tensor, after: Tensor, stage: Tensor) -> Tensor:
        """As the base class has it."""
        return self._density(after, *self._moments(condition))

    def refined(self) -> Policy:
        """The policy, drawing close to its mean."""
        return self.tuned

    def _moments(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        return self.tuned.within(condition, self.config.min_std, self.config.max_std)

    def _density(self, code: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
        each = log_density(code, mean, log_std)[:, self.rows]
        return each.clamp(*LOG_PROB_RANGE).mean((1, 2))
