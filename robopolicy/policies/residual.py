"""A frozen policy and a small learned correction of its actions (after ResiP, Ankile et al. 2024)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robopolicy.codecs import Codec
from robopolicy.errors import ConfigError
from robopolicy.networks.critic import SquashedGaussian
from robopolicy.networks.observation import StateEncoder
from robopolicy.policies.policy import Generation, Policy, Request
from robopolicy.registry import build, register
from robopolicy.spec import Spec

__all__ = ["ResidualConfig", "ResidualPolicy"]


@dataclass(frozen=True, kw_only=True)
class ResidualConfig:
    """The base policy's own configuration, and the correction."""

    base: Mapping[str, Any]
    scale: float = 0.1
    """Largest correction, relative to half the range of the (encoded) data."""
    action_horizon: int | None = None
    """Actions executed before the base is asked again, its own by default. 1 closes the loop."""
    hidden: tuple[int, ...] = (256, 256)
    layer_norm: bool = True

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ConfigError(f"residual: scale must be positive, got {self.scale}.")


@register("policy", "residual")
class ResidualPolicy(Policy):
    """Adds ``scale * tanh(...)`` to the executed rows of the base's encoded chunk.

    The correction sees the observation and those rows, and begins at zero: an untrained residual policy acts
    as its base, bit for bit. Forwarded of the base's capabilities: noise (it is the base's latent).
    """

    def __init__(self, config: ResidualConfig, *, spec: Spec, codec: Codec) -> None:
        base: Policy = build("policy", config.base, spec=spec, codec=copy.deepcopy(codec))
        super().__init__(
            spec,
            codec,
            obs_horizon=base.obs_horizon,
            pred_horizon=base.pred_horizon,
            action_horizon=config.action_horizon or base.action_horizon,
        )
        self.config = config
        self.capabilities = base.capabilities & {"noise"}  # type: ignore[misc]
        self.base = base.requires_grad_(False).eval()
        self.encoder = StateEncoder(spec)
        self.actor = SquashedGaussian(
            self.state_size,
            self.action_size,
            config.hidden,
            layer_norm=config.layer_norm,
            initial_log_std=-1.0,
            final_scale=0.0,
        )

    @property
    def state_size(self) -> int:
        """Ds, what the actor sees: the observation and the base's rows."""
        return self.obs_horizon * self.encoder.size + self.action_size

    @property
    def action_size(self) -> int:
        """Ta * Dz, what the actor decides."""
        return self.action_horizon * self.codec.action_size

    @property
    def noise_shape(self) -> tuple[int, int]:
        """The base's."""
        return self.base.noise_shape

    @property
    def executed(self) -> slice:
        """The rows of a chunk that are executed, and corrected."""
        return slice(self.obs_horizon - 1, self.obs_horizon - 1 + self.action_horizon)

    def state(self, observation: dict[str, Tensor], code: Tensor) -> Tensor:
        """`[N, Ds]` from raw observations `[N, To, ...]` and the base's encoded chunks `[N, Tp, Dz]`."""
        encoded: Tensor = self.encoder(self.codec.encode_observation(observation))
        return torch.cat([encoded.flatten(1), code[:, self.executed].flatten(1)], -1)

    def correct(self, code: Tensor, squashed: Tensor) -> Tensor:
        """Encoded chunks `[N, Tp, Dz]` with corrections `[N, Ta * Dz]` in (-1, 1) added."""
        corrected = code.clone()
        corrected[:, self.executed] += self._reach() * squashed.view(len(code), self.action_horizon, -1)
        return corrected

    def correction(self, code: Tensor, wanted: Tensor) -> Tensor:
        """The correction `[N, Ta * Dz]` in [-1, 1] that comes nearest to executing `wanted` `[N, Ta, Dz]`."""
        return ((wanted - code[:, self.executed]) / self._reach()).clamp(-1, 1).flatten(1)

    def generate(self, observation: dict[str, Tensor], request: Request) -> Generation:
        """The base's chunk, corrected by the actor's mean; a given noise is the base's."""
        n = request.noise.shape[1]
        code = self.base.generate(observation, request).code
        rows = {key: value.repeat_interleave(n, 0) for key, value in observation.items()}
        mean, _ = self.actor(self.state(rows, code))
        return Generation(code=self.correct(code, mean.tanh()))

    def _reach(self) -> Tensor:
        low, high = self.codec.action_bounds()
        return self.config.scale * (high - low) / 2
