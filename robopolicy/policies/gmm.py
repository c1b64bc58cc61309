"""Behaviour cloning with a mixture of Gaussians (BC-GMM of robomimic, Mandlekar et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robopolicy.codecs import Codec
from robopolicy.errors import ConfigError
from robopolicy.networks.regressor import Regressor
from robopolicy.policies.conditioned import ConditionedPolicy
from robopolicy.policies.gaussian import log_density
from robopolicy.policies.policy import ChunkConfig, Generation, Request, draw
from robopolicy.registry import register
from robopolicy.spec import Spec

if TYPE_CHECKING:
    from robopolicy.data.windows import Batch

__all__ = ["GMMConfig", "GMMPolicy"]


@dataclass(frozen=True, kw_only=True)
class GMMConfig(ChunkConfig):
    """robomimic's: five modes, and hardly any noise when acting."""

    encoder: Mapping[str, Any] = field(default_factory=lambda: {"name": "state"})
    width: int = 512
    blocks: int = 3
    dropout: float = 0.0
    modes: int = 5
    min_std: float = 0.01
    """Of encoded actions, added to what the network says."""
    low_noise: bool = True
    """Act with a mode's mean (robomimic's low-noise evaluation) instead of a sample around it."""

    def __post_init__(self) -> None:
        if min(self.width, self.blocks, self.modes) < 1 or not 0 <= self.dropout < 1 or self.min_std <= 0:
            raise ConfigError(
                f"gmm needs width, blocks, modes >= 1, 0 <= dropout < 1 and min_std > 0, got {self}."
            )


@register("policy", "gmm")
class GMMPolicy(ConditionedPolicy):
    """A mixture over whole chunks: one mode for all the steps of a chunk, drawn anew for each."""

    capabilities = frozenset({"trainable", "density"})

    def __init__(self, config: GMMConfig, *, spec: Spec, codec: Codec) -> None:
        super().__init__(config, spec=spec, codec=codec)
        self.network = Regressor(
            config.obs_horizon * self.encoder.size,
            config.modes * (2 * config.pred_horizon * codec.action_size + 1),
            width=config.width,
            blocks=config.blocks,
            dropout=config.dropout,
        )

    def mixture(self, condition: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights `[N, M]`, means and log standard deviations `[N, M, Tp, Dz]` of the M modes."""
        output = self.network(condition)
        modes = self.config.modes
        mean, raw = output[:, modes:].view(-1, 2, modes, *self.noise_shape).unbind(1)
        log_std = (torch.nn.functional.softplus(raw) + self.config.min_std).log()
        return output[:, :modes].log_softmax(-1), mean, log_std

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Negative log-likelihood of the chunk, divided by its entries that are not masked."""
        code = self.codec.encode_action(batch.action, batch.observation)
        weight, mean, log_std = self.mixture(self.condition(batch.observation))
        entries = log_density(code[:, None], mean, log_std)
        count = torch.full_like(code[:, 0, 0], math.prod(code.shape[1:]))
        if batch.mask is not None:
            entries = entries * batch.mask[:, None, :, None]
            count = batch.mask.sum(1) * code.shape[-1]
        chunks = -(weight + entries.sum((2, 3))).logsumexp(1)
        return chunks.sum() / count.sum().clamp_min(1), {}

    def generate(self, observation: dict[str, Tensor], request: Request) -> Generation:
        """A mode is drawn for each chunk (the likeliest is taken where the noise is given)."""
        batch, n = request.noise.shape[:2]
        rows = self.condition(observation).repeat_interleave(n, 0)
        weight, mean, log_std = self.mixture(rows)
        if request.deterministic:
            chosen = weight.argmax(-1)
        else:
            share = torch.special.ndtr(draw((batch, n), request.generator, request.noise.device)).flatten()
            chosen = (weight.exp().cumsum(-1) < share[:, None]).sum(-1).clamp_max(self.config.modes - 1)
        every = torch.arange(len(rows), device=request.noise.device)
        code = mean[every, chosen]
        if not self.config.low_noise:
            code = torch.addcmul(code, log_std[every, chosen].exp(), request.noise.flatten(0, 1))
        density = (weight + log_density(code[:, None], mean, log_std).sum((2, 3))).logsumexp(1)
        return Generation(code=code, log_prob=density)
