"""The residual MLP of DPPO (Ren et al. 2025): the smallest denoiser that reinforcement learning refines."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robopolicy.errors import ConfigError
from robopolicy.networks.embedding import level_encoder
from robopolicy.networks.mish import Mish
from robopolicy.registry import register

__all__ = ["DPPOMLP", "DPPOMLPConfig"]


@dataclass(frozen=True, kw_only=True)
class DPPOMLPConfig:
    """The defaults are the published sizes for Lift and Can (0.58 M parameters)."""

    width: int = 512
    blocks: int = 1
    embedding: int = 16
    condition: tuple[int, ...] = ()
    """Widths of an MLP that reads the observations first; Square's are (512, 64)."""

    def __post_init__(self) -> None:
        if min(self.width, self.blocks, *self.condition) < 1 or self.embedding < 4 or self.embedding % 2:
            raise ConfigError(f"dppo_mlp needs sizes >= 1 and an even embedding >= 4, got {self}.")


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(Mish(), nn.Linear(width, width), Mish(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.body(x)
        return result


@register("network", "dppo_mlp")
class DPPOMLP(nn.Module):
    """Chunk, noise level and observations, concatenated, through a residual MLP without normalisation."""

    def __init__(
        self, config: DPPOMLPConfig, *, action_size: int, horizon: int, obs_horizon: int, condition_size: int
    ) -> None:
        super().__init__()
        self.config = config
        self.level = level_encoder(config.embedding, expansion=2)
        widths = (obs_horizon * condition_size, *config.condition)
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), Mish()]
        self.condition = nn.Sequential(*layers[:-1])
        chunk = action_size * horizon
        self.body = nn.Sequential(
            nn.Linear(chunk + config.embedding + widths[-1], config.width),
            *(_Block(config.width) for _ in range(config.blocks)),
            nn.Linear(config.width, chunk),
        )

    def forward(self, x: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        """`[B, Tp, Dz]`, `[B]`, `[B, To, Dc]` -> `[B, Tp, Dz]`."""
        seen = self.condition(condition.flatten(1))
        result: Tensor = self.body(torch.cat([x.flatten(1), self.level(level), seen], -1))
        return result.view_as(x)
