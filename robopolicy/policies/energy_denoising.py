"""A noise-conditional energy trained by denoising: its gradient is a score, so it composes and is guided."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from robopolicy.codecs import Codec
from robopolicy.diffusion.denoiser import Denoiser, clean_estimate
from robopolicy.diffusion.energy import Energy, denoised
from robopolicy.diffusion.noise import sigma_table
from robopolicy.diffusion.training import add_noise, draw_levels, masked_mean
from robopolicy.errors import ConfigError
from robopolicy.networks.attention import differentiate_twice
from robopolicy.policies.denoising import DenoisingPolicy, run_sampler
from robopolicy.policies.policy import ChunkConfig, Generation, Request
from robopolicy.registry import build, register
from robopolicy.spec import Spec

if TYPE_CHECKING:
    from robopolicy.data.windows import Batch

__all__ = ["EnergyDenoisingConfig", "EnergyDenoisingPolicy"]


@dataclass(frozen=True, kw_only=True)
class EnergyDenoisingConfig(ChunkConfig):
    """Settings are those of diffusion."""

    encoder: Mapping[str, Any] = field(default_factory=lambda: {"name": "state"})
    network: Mapping[str, Any] = field(default_factory=lambda: {"name": "mlp"})
    sampler: Mapping[str, Any] = field(default_factory=lambda: {"name": "ddim", "steps": 10})
    train_steps: int = 100
    schedule: Literal["squaredcos_cap_v2", "linear", "scaled_linear"] = "squaredcos_cap_v2"
    clip: bool = True
    """Clip the clean estimate to the range of the (encoded) data at every denoising step."""

    def __post_init__(self) -> None:
        if self.train_steps < 1:
            raise ConfigError(f"energy_denoising: train_steps must be >= 1, got {self.train_steps}.")


@register("policy", "energy_denoising")
class EnergyDenoisingPolicy(DenoisingPolicy):
    """``E(x, sigma) = |x - f(x, sigma)|^2 / (2 sigma^2)``, denoising by ``D = x - sigma^2 dE/dx``.

    f is a network that predicts the clean chunk, and ``D = f + J^T (x - f)`` with its Jacobian J: the
    gradient-step denoiser of Hurault et al. (ICLR 2022), the form that Salimans & Ho (2021) found to train
    as well as an unconstrained score. Training starts at f, as stable as diffusion's, and E >= 0 says how
    many standard deviations of its noise a chunk is from where the network would move it.
    """

    capabilities = DenoisingPolicy.capabilities | {"energy"}

    def __init__(self, config: EnergyDenoisingConfig, *, spec: Spec, codec: Codec) -> None:
        super().__init__(config, spec=spec, codec=codec)
        self.clip = config.clip
        self.network = self.build_network()
        differentiate_twice(self.network)
        self.sampler = build(
            "sampler", config.sampler, train_steps=config.train_steps, schedule=config.schedule
        )
        table = sigma_table(config.train_steps, config.schedule).float()
        self.register_buffer("sigmas", table, persistent=False)

    sigmas: Tensor

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the clean estimate, over all Tp x Dz entries that are not masked."""
        clean = self.codec.encode_action(batch.action, batch.observation)
        condition = self.condition(batch.observation)
        sigma = draw_levels(self.sigmas, len(clean), generator)
        noisy, _ = add_noise(clean, sigma, generator)
        estimate, energy = denoised(self.energy(condition, sigma), noisy, sigma, create_graph=True)
        return masked_mean((estimate - clean) ** 2, batch.mask), {"energy": energy.detach().mean()}

    def energy(self, condition: Tensor, sigma: Tensor) -> Energy:
        """The energy of encoded chunks at noise levels `[N]`, for rows with conditions `[N, To, Dc]`."""

        def energy(x: Tensor) -> Tensor:
            estimate = clean_estimate(self.network, "sample", x, sigma, condition)
            return (x - estimate).square().sum((1, 2)) / (2 * sigma**2)

        return energy

    def denoiser(self, condition: Tensor) -> Denoiser:
        """The clean estimate; differentiable where gradients are enabled."""

        def estimate(x: Tensor, sigma: Tensor) -> Tensor:
            clean, _ = denoised(self.energy(condition, sigma), x, sigma, create_graph=torch.is_grad_enabled())
            return clean

        return estimate

    def generate(self, observation: dict[str, Tensor], request: Request) -> Generation:
        """As every denoising policy, and the chunk's energy at the smallest noise level.

        A call is a forward and a backward pass.
        """
        condition = self.condition(observation).repeat_interleave(request.noise.shape[1], 0)
        clip = self.codec.action_bounds() if self.clip else None
        made = run_sampler(self.sampler, self.denoiser(condition), request, clip=clip)
        sigma = self.sigmas[0].expand(len(made.code))
        return dataclasses.replace(made, energy=self.energy(condition, sigma)(made.code))
