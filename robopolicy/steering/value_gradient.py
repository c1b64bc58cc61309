"""Denoising that climbs a learned value.

For data of unit variance tilted by ``exp(w u.x)`` with a fixed direction u the ideal denoiser is moved by
``w sigma^2 / (1 + sigma^2) u``, and the mean of the samples by ``w u``. Here u is the gradient of Q at the
clean estimate, scaled so that its largest row has length 1.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robopolicy.diffusion.denoiser import Denoiser
from robopolicy.diffusion.energy import Energy, energy_and_slope
from robopolicy.errors import ConfigError
from robopolicy.policies.actor_critic import ActorCriticPolicy
from robopolicy.policies.policy import Generation, Policy, Request
from robopolicy.registry import register
from robopolicy.steering.judge import Judged
from robopolicy.steering.steer import SteeredField

__all__ = ["ValueGradient", "ValueGradientConfig", "climbing"]


@dataclass(frozen=True, kw_only=True)
class ValueGradientConfig:
    """How strongly."""

    critic: str = ""
    """Checkpoint of scripts/train_value.py."""
    strength: float = 0.1
    """w: by how much the row that matters most is moved, in encoded actions (half the data's range is 1)."""
    stop: float = 0.0
    """Noise level below which the policy is left alone."""

    def __post_init__(self) -> None:
        if self.strength < 0 or self.stop < 0:
            raise ConfigError(f"steer=value_gradient needs strength, stop >= 0, got {self}.")


@register("steer", "value_gradient")
class ValueGradient(Judged, SteeredField):
    """Follows the gradient of Q at every denoising step. At strength 0 it is the policy, bit for bit.

    Raises:
        MissingCapability: the policy does not denoise.
    """

    def __init__(
        self, config: ValueGradientConfig, *, policy: Policy, critic: ActorCriticPolicy | None = None
    ) -> None:
        super().__init__(policy)
        self.sit(config, critic)

    def field(self, observation: Mapping[str, Tensor], n: int = 1) -> Denoiser:
        """The wrapped policy's field, which climbs."""
        policy: Any = self.policy
        return self.bend(policy.field(self.judge.of_policy(observation), n), observation, n)

    def bend(self, field: Denoiser, observation: Mapping[str, Tensor], n: int) -> Denoiser:
        """`climbing` the critic's values."""
        if not self.config.strength:
            return field
        bound = self.judge.bind(observation, n)
        return climbing(field, bound, self.config.strength, stop=self.config.stop)

    def generate(self, observation: dict[str, Tensor], request: Request) -> Generation:
        """Denoise with the steered field."""
        started = time.perf_counter()
        made = super().generate(observation, request)
        taken = time.perf_counter() - started
        bound = self.judge.bind(observation, request.noise.shape[1])
        encoded = bound.encode(made.code)
        self.ledger.candidates(encoded[:, None], type(self.policy).__name__)
        self.ledger.add({"q_chosen": bound.q(encoded)})
        self.ledger.seconds(policy=taken)
        return made


def climbing(denoiser: Denoiser, value: Energy, strength: float, *, stop: float = 0.0) -> Denoiser:
    """The denoiser whose clean estimate goes up a value `[N]` of encoded chunks.

    Args:
        strength: w.
        stop: noise level below which nothing is changed.
    """

    def estimate(x: Tensor, sigma: Tensor) -> Tensor:
        clean = denoiser(x, sigma)
        _, slope = energy_and_slope(value, clean)
        largest = slope.norm(dim=-1).amax(1)
        share = torch.where(sigma >= stop, sigma**2 / (1 + sigma**2), 0.0)
        scale = torch.where(largest > 0, strength * share / largest.clamp_min(1e-30), 0.0)
        return clean + scale[:, None, None] * slope

    return estimate
