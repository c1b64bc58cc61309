"""A frozen policy and a small learned correction of each of its actions (ResiP, Ankile et al. 2024)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robopolicy.codecs import Codec
from robopolicy.data.windows import check_horizons
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
    """Actions of the base's chunk that are used before it is asked again, its own by default."""
    hidden: tuple[int, ...] = (256, 256)
    layer_norm: bool = True

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ConfigError(f"residual: scale must be positive, got {self.scale}.")


@register("policy", "residual")
class ResidualPolicy(Policy):
    """Adds ``scale * tanh(...)`` to every encoded action of the base, from what is observed at its step.

    The correction sees the observation and the base's action, and begins at zero: an untrained residual
    policy acts as its base, bit for bit. The base (`planner`) is asked for a chunk and the chunk is corrected
    action by action; a chunk sampled here is the base's with the action of now corrected, and no other is
    meant to be executed. Forwarded of the base's capabilities: noise (it is the base's latent).
    """

    def __init__(self, config: ResidualConfig, *, spec: Spec, codec: Codec) -> None:
        base: Policy = build("policy", config.base, spec=spec, codec=copy.deepcopy(codec))
        base.action_horizon = config.action_horizon or base.action_horizon
        check_horizons(base.obs_horizon, base.pred_horizon, base.action_horizon)
        super().__init__(
            spec, codec, obs_horizon=base.obs_horizon, pred_horizon=base.pred_horizon, action_horizon=1
        )
        self.config = config
        self.capabilities = base.capabilities & {"noise"}  # type: ignore[misc]
        self.base = base.requires_grad_(False).eval()
        self.encoder = StateEncoder(spec)
        self.actor = SquashedGaussian(
            self.state_size,
            self.codec.action_size,
            config.hidden,
            layer_norm=config.layer_norm,
            initial_log_std=-1.0,
            final_scale=0.0,
        )

    @property
    def planner(self) -> Policy:
        """The base."""
        return self.base

    @property
    def state_size(self) -> int:
        """Ds, what the actor sees: the observation and the base's action."""
        return self.obs_horizon * self.encoder.size + self.codec.action_size

    @property
    def noise_shape(self) -> tuple[int, int]:
        """The base's."""
        return self.base.noise_shape

    def state(self, observation: dict[str, Tensor], code: Tensor) -> Tensor:
        """`[N, Ds]` from raw observations `[N, To, ...]` and the base's encoded actions `[N, Dz]`."""
        encoded: Tensor = self.encoder(self.codec.encode_observation(observation))
        return torch.cat([encoded.flatten(1), code], -1)

    def encode(self, planned: Tensor, observation: dict[str, Tensor]) -> Tensor:
        """Actions `[N, Da]` of one step, encoded as seen from there, `[N, Dz]`."""
        return self.codec.encode_action(planned[:, None], observation)[:, 0]

    def corrected(
        self, planned: Tensor, code: Tensor, squashed: Tensor, observation: dict[str, Tensor]
    ) -> Tensor:
        """Actions `[N, Da]`, whose codes are `[N, Dz]`, with corrections `[N, Dz]` in (-1, 1) of these."""
        moved = self.codec.decode_action((code + self._reach() * squashed)[:, None], observation)[:, 0]
        # Encoding and decoding may round: what is not corrected stays bit for bit.
        return torch.where((squashed == 0).all(-1, keepdim=True), planned, moved)

    def correction(self, code: Tensor, wanted: Tensor) -> Tensor:
        """The correction `[N, Dz]` in [-1, 1] of codes `[N, Dz]` that comes nearest to `wanted` `[N, Dz]`."""
        return ((wanted - code) / self._reach()).clamp(-1, 1)

    @torch.no_grad()
    def adjust(self, observation: Mapping[str, Any], planned: Any) -> Tensor:
        """The base's actions `[B, Da]`, corrected by the actor's mean."""
        raw = self.tensors_of(observation)
        actions = torch.as_tensor(planned, device=self.device, dtype=torch.float32)
        code = self.encode(actions, raw)
        mean, _ = self.actor(self.state(raw, code))
        return self.corrected(actions, code, mean.tanh(), raw)

    def generate(self, observation: dict[str, Tensor], request: Request) -> Generation:
        """The base's chunk, the action of now corrected by the actor's mean; a given noise is the base's."""
        n, now = request.noise.shape[1], self.obs_horizon - 1
        code = self.base.generate(observation, request).code.clone()
        rows = {key: value.repeat_interleave(n, 0) for key, value in observation.items()}
        mean, _ = self.actor(self.state(rows, code[:, now]))
        code[:, now] += self._reach() * mean.tanh()
        return Generation(code=code)

    def _reach(self) -> Tensor:
        low, high = self.codec.action_bounds()
        return self.config.scale * (high - low) / 2
