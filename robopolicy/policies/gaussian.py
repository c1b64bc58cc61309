"""Behaviour cloning with a Gaussian: the mean of what was demonstrated, and its spread."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robopolicy.codecs import Codec
from robopolicy.diffusion.training import masked_mean
from robopolicy.errors import ConfigError
from robopolicy.networks.regressor import Regressor
from robopolicy.policies.conditioned import ConditionedPolicy
from robopolicy.policies.policy import ChunkConfig, Generation, Request
from robopolicy.registry import register
from robopolicy.spec import Spec

if TYPE_CHECKING:
    from robopolicy.data.windows import Batch

__all__ = ["GaussianConfig", "GaussianPolicy", "log_density"]


@dataclass(frozen=True, kw_only=True)
class GaussianConfig(ChunkConfig):
    """Sizes of the residual MLP, and the bounds of the standard deviation (of encoded actions)."""

    encoder: Mapping[str, Any] = field(default_factory=lambda: {"name": "state"})
    width: int = 512
    blocks: int = 3
    dropout: float = 0.0
    min_std: float = 0.01
    max_std: float = 2.0

    def __post_init__(self) -> None:
        if min(self.width, self.blocks) < 1 or not 0 <= self.dropout < 1:
            raise ConfigError(f"gaussian needs width, blocks >= 1 and 0 <= dropout < 1, got {self}.")
        if not 0 < self.min_std < self.max_std:
            raise ConfigError(f"gaussian needs 0 < min_std < max_std, got {self.min_std}, {self.max_std}.")


@register("policy", "gaussian")
class GaussianPolicy(ConditionedPolicy):
    """Independent Gaussians for every step and dimension of the chunk; it averages over modes."""

    capabilities = frozenset({"trainable", "noise", "density", "gradient"})

    def __init__(self, config: GaussianConfig, *, spec: Spec, codec: Codec) -> None:
        super().__init__(config, spec=spec, codec=codec)
        self.network = Regressor(
            config.obs_horizon * self.encoder.size,
            2 * config.pred_horizon * codec.action_size,
            width=config.width,
            blocks=config.blocks,
            dropout=config.dropout,
        )

    def moments(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the standard deviation of encoded actions, `[N, Tp, Dz]` each."""
        mean, raw = self.network(condition).view(-1, 2, *self.noise_shape).unbind(1)
        low, high = math.log(self.config.min_std), math.log(self.config.max_std)
        return mean, low + (high - low) * raw.sigmoid()

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean negative log-likelihood of an entry, over all that are not masked."""
        code = self.codec.encode_action(batch.action, batch.observation)
        mean, log_std = self.moments(self.condition(batch.observation))
        loss = masked_mean(-log_density(code, mean, log_std), batch.mask)
        return loss, {"std": log_std.detach().exp().mean()}

    def generate(self, observation: dict[str, Tensor], request: Request) -> Generation:
        """``mean + std * noise``."""
        rows = self.condition(observation).repeat_interleave(request.noise.shape[1], 0)
        mean, log_std = self.moments(rows)
        code = torch.addcmul(mean, log_std.exp(), request.noise.flatten(0, 1))
        return Generation(code=code, log_prob=log_density(code, mean, log_std).sum((1, 2)))


def log_density(value: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Logarithm of the normal density, of every entry."""
    return -0.5 * ((value - mean) * (-log_std).exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)
