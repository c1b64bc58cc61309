"""Diffusion Policy (Chi et al., RSS 2023): conditional denoising of action chunks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from robopolicy.codecs import Codec
from robopolicy.device import reduced
from robopolicy.diffusion.denoiser import (
    Denoiser,
    Prediction,
    clean_estimate,
    network_scale,
    training_target,
)
from robopolicy.diffusion.noise import noise_level, sigma_table
from robopolicy.diffusion.training import add_noise, draw_levels, masked_mean
from robopolicy.errors import ConfigError
from robopolicy.policies.denoising import DenoisingPolicy
from robopolicy.policies.policy import ChunkConfig
from robopolicy.registry import build, register
from robopolicy.spec import Spec

if TYPE_CHECKING:
    from robopolicy.data.windows import Batch

__all__ = ["DiffusionConfig", "DiffusionPolicy"]


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig(ChunkConfig):
    """Defaults follow the paper's low-dimensional setting (To 2, Tp 16, Ta 8, 100 training steps)."""

    encoder: Mapping[str, Any] = field(default_factory=lambda: {"name": "state"})
    network: Mapping[str, Any] = field(default_factory=lambda: {"name": "mlp"})
    sampler: Mapping[str, Any] = field(default_factory=lambda: {"name": "ddim", "steps": 10})
    train_steps: int = 100
    schedule: Literal["squaredcos_cap_v2", "linear", "scaled_linear"] = "squaredcos_cap_v2"
    prediction: Prediction = "sample"
    clip: bool = True
    """Clip the clean estimate to the range of the (encoded) data at every denoising step."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the network alone; everything around it stays float32."""

    def __post_init__(self) -> None:
        if self.train_steps < 1:
            raise ConfigError(f"diffusion: train_steps must be >= 1, got {self.train_steps}.")


@register("policy", "diffusion")
class DiffusionPolicy(DenoisingPolicy):
    """The clean chunk, its noise or a mixture is regressed at uniformly drawn noise levels."""

    def __init__(self, config: DiffusionConfig, *, spec: Spec, codec: Codec) -> None:
        super().__init__(config, spec=spec, codec=codec)
        self.clip = config.clip
        self.network = self.build_network()
        self.sampler = build(
            "sampler", config.sampler, train_steps=config.train_steps, schedule=config.schedule
        )
        table = sigma_table(config.train_steps, config.schedule).float()
        self.register_buffer("sigmas", table, persistent=False)

    sigmas: Tensor

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the prediction target, over all Tp x Dz entries that are not masked."""
        clean = self.codec.encode_action(batch.action, batch.observation)
        condition = self.condition(batch.observation)
        sigma = draw_levels(self.sigmas, len(clean), generator)
        noisy, noise = add_noise(clean, sigma, generator)
        output = self._network(noisy * network_scale(sigma), noise_level(sigma), condition).float()
        error = (output - training_target(self.config.prediction, clean, noise, sigma)) ** 2
        return masked_mean(error, batch.mask), {}

    def denoiser(self, condition: Tensor) -> Denoiser:
        """The network as an estimate of the clean chunk."""

        def estimate(x: Tensor, sigma: Tensor) -> Tensor:
            return clean_estimate(self._network, self.config.prediction, x, sigma, condition)

        return estimate

    def _network(self, x: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        with reduced(self.config.precision, x.device):
            output: Tensor = self.network(x, level, condition)
        return output
