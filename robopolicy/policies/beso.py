"""BESO (Reuss et al., RSS 2023): a score-based policy that reaches goals in few denoising steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robopolicy.codecs import Codec
from robopolicy.diffusion.compose import guided
from robopolicy.diffusion.denoiser import Denoiser, edm_scales
from robopolicy.diffusion.noise import SigmaRange, noise_level
from robopolicy.diffusion.training import add_noise, masked_mean
from robopolicy.errors import ConfigError
from robopolicy.policies.denoising import DenoisingPolicy
from robopolicy.policies.policy import ChunkConfig
from robopolicy.registry import build, register
from robopolicy.spec import GOAL, Spec

if TYPE_CHECKING:
    from robopolicy.data.windows import Batch

__all__ = ["LEVELS", "BESOConfig", "BESOPolicy"]

LEVELS = 100
"""Entries of the table that spacings by training step choose from."""


@dataclass(frozen=True, kw_only=True)
class BESOConfig(ChunkConfig):
    """The paper's kitchen setting but for more noise and 5 steps of DPM-Solver++ instead of 3 of DDIM.

    The paper predicts single actions. Steps of a chunk resemble each other: their mean shows through noise of
    1, so that samplers have to start above it.
    """

    encoder: Mapping[str, Any] = field(default_factory=lambda: {"name": "state"})
    network: Mapping[str, Any] = field(default_factory=lambda: {"name": "mlp"})
    sampler: Mapping[str, Any] = field(
        default_factory=lambda: {"name": "dpm", "steps": 5, "spacing": "exponential"}
    )
    sigma_low: float = 0.005
    sigma_high: float = 10.0
    deviation: float = 0.5
    """Of the encoded actions (EDM's sigma_data)."""
    location: float = -0.6
    scale: float = 1.6
    """Training noise is log-logistic with these, within [sigma_low, sigma_high]."""
    goal_dropout: float = 0.1
    """Share of training windows whose goal is hidden."""
    guidance: float = 1.0
    """Weight of the goal in classifier-free guidance; 1 is none, 0 ignores the goal."""
    clip: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.sigma_low < self.sigma_high or min(self.deviation, self.scale) <= 0:
            raise ConfigError(f"beso needs 0 < sigma_low < sigma_high and deviation, scale > 0, got {self}.")
        if not 0 <= self.goal_dropout < 1 or self.guidance < 0:
            raise ConfigError(
                f"beso needs 0 <= goal_dropout < 1 and guidance >= 0, got {self.goal_dropout} and "
                f"{self.guidance}."
            )
        if self.guidance != 1 and self.goal_dropout == 0:
            raise ConfigError("beso: guidance compares with a hidden goal, which takes goal_dropout > 0.")


@register("policy", "beso")
class BESOPolicy(DenoisingPolicy):
    """A denoiser with EDM's preconditioning (Karras et al. 2022), on noise levels drawn from a continuum.

    Goals are the state observations whose keys begin with ``goal/``. In training they are what the window's
    episode came to (see `Windows`), in use the environment or the caller gives them. A hidden goal is zero,
    the middle of the data. Without such observations this is a plain EDM policy.
    """

    def __init__(self, config: BESOConfig, *, spec: Spec, codec: Codec) -> None:
        super().__init__(config, spec=spec, codec=codec)
        self.clip = config.clip
        self.goals = spec.goals
        if config.guidance != 1 and not self.goals:
            raise ConfigError(
                f"beso: guidance={config.guidance} needs a goal among the observations, which are "
                f"{sorted(spec.observations)}. Name one with observations=[..., {GOAL}<key>]."
            )
        self.network = self.build_network()
        levels = SigmaRange(config.sigma_low, config.sigma_high, config.deviation)
        self.sampler = build("sampler", config.sampler, train_steps=LEVELS, schedule=levels)

    @property
    def evaluations(self) -> int:
        """Two with guidance: with the goal and without."""
        return 2 if self.config.guidance not in (0, 1) else 1

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the network's own, unit-variance target."""
        clean = self.codec.encode_action(batch.action, batch.observation)
        shown = None
        if self.goals and self.config.goal_dropout:
            drawn = torch.rand(len(clean), generator=generator, device=clean.device)
            shown = drawn >= self.config.goal_dropout
        condition = self._condition(batch.observation, shown)
        sigma = self.draw_noise(len(clean), generator)
        noisy, _ = add_noise(clean, sigma, generator)
        keep, out, scale = self._scales(sigma)
        output = self.network(noisy * scale, noise_level(sigma), condition)
        return masked_mean((output - (clean - keep * noisy) / out) ** 2, batch.mask), {}

    def draw_noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Noise levels `[count]` from the truncated log-logistic distribution."""
        config = self.config
        ends = [
            1 / (1 + math.exp(-(math.log(sigma) - config.location) / config.scale))
            for sigma in (config.sigma_low, config.sigma_high)
        ]
        drawn = torch.rand(count, generator=generator, device=self.device, dtype=torch.float64)
        quantile = ends[0] + (ends[1] - ends[0]) * drawn
        return (config.location + config.scale * quantile.logit()).exp().float()

    def condition(self, observation: Mapping[str, Tensor]) -> Tensor:
        """`[B, To, Dc]`, goals shown."""
        return self._condition(observation, None)

    def denoiser(self, condition: Tensor) -> Denoiser:
        """The preconditioned network."""

        def estimate(x: Tensor, sigma: Tensor) -> Tensor:
            keep, out, scale = self._scales(sigma)
            output: Tensor = self.network(x * scale, noise_level(sigma), condition).to(x.dtype)
            return torch.addcmul(keep * x, out, output)

        return estimate

    def field(self, observation: Mapping[str, Tensor], n: int = 1) -> Denoiser:
        """Guided towards the goal, where the configuration says so."""
        conditional = super().field(observation, n)
        if self.config.guidance == 1:
            return conditional
        shown = torch.zeros(len(next(iter(observation.values()))), dtype=torch.bool, device=self.device)
        hidden = self._condition(observation, shown).repeat_interleave(n, 0)
        return guided(conditional, self.denoiser(hidden), self.config.guidance)

    def _condition(self, observation: Mapping[str, Tensor], shown: Tensor | None) -> Tensor:
        """With the goals of the rows that `shown` `[B]` has (None: of all)."""
        encoded = self.codec.encode_observation(observation)
        if shown is not None:
            for key in self.goals:
                value = encoded[key]
                encoded[key] = value * shown.to(value.dtype).view(-1, *[1] * (value.ndim - 1))
        condition: Tensor = self.encoder(encoded)
        return condition

    def _scales(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """EDM's c_skip, c_out and c_in, `[B, 1, 1]`."""
        return edm_scales(sigma[:, None, None], self.config.deviation)
