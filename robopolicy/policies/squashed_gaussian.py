"""A policy learned by reinforcement alone: the squashed-Gaussian actor of SAC, for whole chunks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robopolicy.codecs import Codec
from robopolicy.errors import ConfigError
from robopolicy.networks.critic import SquashedGaussian
from robopolicy.networks.observation import StateEncoder
from robopolicy.policies.policy import Generation, Policy, Request
from robopolicy.registry import register
from robopolicy.spec import Spec

__all__ = ["SquashedGaussianConfig", "SquashedGaussianPolicy"]


@dataclass(frozen=True, kw_only=True)
class SquashedGaussianConfig:
    """Of the actor; `action_horizon` actions are decided at a time."""

    obs_horizon: int = 1
    action_horizon: int = 1
    hidden: tuple[int, ...] = (256, 256)
    layer_norm: bool = False
    deterministic: bool = True
    """Act by the mean instead of drawing."""


@register("policy", "squashed_gaussian")
class SquashedGaussianPolicy(Policy):
    """Actions fill the robot's own bounds, whatever the codec was fitted to."""

    low: Tensor
    high: Tensor

    def __init__(self, config: SquashedGaussianConfig, *, spec: Spec, codec: Codec) -> None:
        super().__init__(
            spec,
            codec,
            obs_horizon=config.obs_horizon,
            pred_horizon=config.obs_horizon - 1 + config.action_horizon,
            action_horizon=config.action_horizon,
        )
        self.config = config
        self.encoder = StateEncoder(spec)
        low, high = torch.tensor(spec.action.low), torch.tensor(spec.action.high)
        if not (torch.isfinite(low) & torch.isfinite(high)).all():
            raise ConfigError(
                f"squashed_gaussian needs finite action bounds, got {low.tolist()}, {high.tolist()}."
            )
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        self.actor = SquashedGaussian(
            self.state_size, self.action_size, config.hidden, layer_norm=config.layer_norm
        )

    @property
    def state_size(self) -> int:
        """Ds, what the actor sees."""
        return self.obs_horizon * self.encoder.size

    @property
    def action_size(self) -> int:
        """Ta * Da, what the actor decides."""
        return self.action_horizon * self.spec.action.size

    @property
    def noise_shape(self) -> tuple[int, int]:
        """`(Tp, Da)`."""
        return self.pred_horizon, self.spec.action.size

    def state(self, observation: dict[str, Tensor]) -> Tensor:
        """`[B, Ds]` from raw observations `[B, To, ...]`."""
        encoded: Tensor = self.encoder(self.codec.encode_observation(observation))
        return encoded.flatten(1)

    def to_actions(self, squashed: Tensor) -> Tensor:
        """`[N, Ta * Da]` in (-1, 1) to `[N, Ta, Da]` in the robot's units."""
        rows = squashed.unflatten(-1, (self.action_horizon, -1))
        return self.low + (rows + 1) / 2 * (self.high - self.low)

    def from_actions(self, actions: Tensor) -> Tensor:
        """Inverse of `to_actions`; actions at or beyond the bounds come out at +-1."""
        rows = 2 * (actions - self.low) / (self.high - self.low) - 1
        return rows.clamp(-1, 1).flatten(1)

    def generate(self, observation: dict[str, Tensor], request: Request) -> Generation:
        """One chunk of the actor for each noise; rows of the past repeat the first one decided."""
        n = request.noise.shape[1]
        rows = {key: value.repeat_interleave(n, 0) for key, value in observation.items()}
        state = self.state(rows)
        if self.config.deterministic:
            squashed, log_prob = self.actor(state)[0].tanh(), None
        else:
            decided = request.noise.flatten(0, 1)[:, self.obs_horizon - 1 :].flatten(1)
            squashed, log_prob = self.actor.sample(state, decided)
        actions = self.to_actions(squashed)
        past = actions[:, :1].expand(-1, self.obs_horizon - 1, -1)
        return Generation(
            code=self.codec.encode_action(torch.cat([past, actions], 1), rows), log_prob=log_prob
        )
