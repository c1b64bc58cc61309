"""A generative policy whose noise is chosen by an actor (DSRL, Wagenmaker et al., CoRL 2025)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from robopolicy.codecs import Codec
from robopolicy.errors import ConfigError
from robopolicy.networks.critic import SquashedGaussian
from robopolicy.networks.observation import StateEncoder
from robopolicy.policies.policy import Generation, Policy, Request
from robopolicy.registry import build, register
from robopolicy.spec import Spec

__all__ = ["NoiseSteeredConfig", "NoiseSteeredPolicy"]


@dataclass(frozen=True, kw_only=True)
class NoiseSteeredConfig:
    """The base policy's own configuration, and the actor."""

    base: Mapping[str, Any]
    bound: float = 1.5
    """b: the noise is ``b * tanh(...)``, so every entry is within +-b."""
    repeat: bool = False
    """One row of noise, repeated over the chunk, instead of a row of its own for every action."""
    hidden: tuple[int, ...] = (256, 256)
    layer_norm: bool = True
    deterministic: bool = False
    """Take the actor's mean instead of drawing."""

    def __post_init__(self) -> None:
        if self.bound <= 0:
            raise ConfigError(f"dsrl: bound must be positive, got {self.bound}.")


@register("policy", "dsrl")
class NoiseSteeredPolicy(Policy):
    """The base policy is a black box: it is only asked to `sample` with a given noise, and never changes.

    Its own latent is what the actor draws with. Forwarded of the base's capabilities: none but noise.
    """

    capabilities = frozenset({"noise"})

    def __init__(self, config: NoiseSteeredConfig, *, spec: Spec, codec: Codec) -> None:
        base: Policy = build("policy", config.base, spec=spec, codec=copy.deepcopy(codec))
        base.require("noise")
        super().__init__(
            spec,
            codec,
            obs_horizon=base.obs_horizon,
            pred_horizon=base.pred_horizon,
            action_horizon=base.action_horizon,
        )
        self.config = config
        self.base = base.requires_grad_(False).eval()
        self.encoder = StateEncoder(spec)
        self.actor = SquashedGaussian(
            self.state_size, self.action_size, config.hidden, layer_norm=config.layer_norm
        )

    @property
    def state_size(self) -> int:
        """Ds, what the actor sees."""
        return self.obs_horizon * self.encoder.size

    @property
    def action_size(self) -> int:
        """What the actor decides: Tp * Dz entries of noise, or Dz if one row is repeated."""
        rows, size = self.base.noise_shape
        return size if self.config.repeat else rows * size

    @property
    def noise_shape(self) -> tuple[int, int]:
        """The base's."""
        return self.base.noise_shape

    def state(self, observation: dict[str, Tensor]) -> Tensor:
        """`[B, Ds]` from raw observations `[B, To, ...]`."""
        encoded: Tensor = self.encoder(self.codec.encode_observation(observation))
        return encoded.flatten(1)

    def to_noise(self, squashed: Tensor) -> Tensor:
        """Actions of the actor `[N, action_size]` in (-1, 1) to noise `[N, Tp, Dz]` within +-b."""
        rows, size = self.base.noise_shape
        noise = self.config.bound * squashed.view(len(squashed), -1, size)
        return noise.expand(-1, rows, -1)

    def from_noise(self, noise: Tensor) -> Tensor:
        """Inverse of `to_noise`; noise outside the bound comes out at +-1."""
        rows = noise[:, :1] if self.config.repeat else noise
        return (rows / self.config.bound).clamp(-1, 1).flatten(1)

    def generate(self, observation: dict[str, Tensor], request: Request) -> Generation:
        """The base's chunk for the noise that the actor makes of `noise`."""
        batch, n = request.noise.shape[:2]
        state = self.state(observation).repeat_interleave(n, 0)
        if self.config.deterministic:
            squashed = self.actor(state)[0].tanh()
        else:
            squashed, _ = self.actor.sample(
                state, request.noise.flatten(2).flatten(0, 1)[:, : self.action_size]
            )
        chosen = self.to_noise(squashed).unflatten(0, (batch, n))
        actions = self.base.sample(observation, n=n, noise=chosen).actions.flatten(0, 1)
        rows = {key: value.repeat_interleave(n, 0) for key, value in observation.items()}
        return Generation(code=self.codec.encode_action(actions, rows))
