"""The conditional 1-D U-Net of Diffusion Policy (Chi et al. 2023), conditioned globally through FiLM."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robopolicy.errors import ConfigError
from robopolicy.networks.embedding import level_encoder
from robopolicy.networks.mish import Mish
from robopolicy.registry import register

__all__ = ["SHORT", "UNet1D", "UNet1DConfig", "matrix_convolution"]

SHORT = 8
"""Steps up to which bfloat16 convolutions on a CPU are faster as matrix products."""


@dataclass(frozen=True, kw_only=True)
class UNet1DConfig:
    """The defaults are the published low-dimensional sizes (66 M parameters)."""

    channels: tuple[int, ...] = (256, 512, 1024)
    embedding: int = 256
    kernel: int = 5
    groups: int = 8

    def __post_init__(self) -> None:
        if len(self.channels) < 2 or self.kernel % 2 == 0:
            raise ConfigError(f"unet1d needs two or more channels and an odd kernel, got {self}.")
        for width in self.channels:
            if width % self.groups:
                raise ConfigError(f"unet1d: groups={self.groups} does not divide {width} channels.")


class _Conv1d(nn.Conv1d):
    """`nn.Conv1d` that keeps the length, with a shortcut where torch is slow: few steps, bfloat16, CPU."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Conv1d's own name
        short = input.shape[-1] <= SHORT
        if short and input.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            return matrix_convolution(input, self.weight, self.bias)
        return super().forward(input)


def matrix_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Length-preserving `conv1d` of `[B, C, T]` (odd kernel): one matrix product over shifted copies."""
    kernel, steps = weight.shape[-1], x.shape[-1]
    padded = F.pad(x.transpose(1, 2), (0, 0, kernel // 2, kernel // 2))
    shifted = torch.cat([padded[:, j : j + steps] for j in range(kernel)], -1)
    return F.linear(shifted, weight.transpose(1, 2).flatten(1), bias).transpose(1, 2)


def _conv_block(inputs: int, outputs: int, config: UNet1DConfig) -> nn.Sequential:
    return nn.Sequential(
        _Conv1d(inputs, outputs, config.kernel, padding=config.kernel // 2),
        nn.GroupNorm(config.groups, outputs),
        Mish(),
    )


class _Residual(nn.Module):
    """Two convolution blocks with FiLM (scale and bias from the condition) between them."""

    def __init__(self, inputs: int, outputs: int, condition: int, config: UNet1DConfig) -> None:
        super().__init__()
        self.first = _conv_block(inputs, outputs, config)
        self.second = _conv_block(outputs, outputs, config)
        self.film = nn.Sequential(Mish(), nn.Linear(condition, 2 * outputs))
        self.skip = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, bias = self.film(condition)[:, :, None].chunk(2, 1)
        return self.second(scale * self.first(x) + bias) + self.skip(x)


class _Level(nn.Module):
    """Two residual blocks and a change of resolution (identity at the ends)."""

    def __init__(
        self, inputs: int, outputs: int, condition: int, config: UNet1DConfig, resample: nn.Module
    ) -> None:
        super().__init__()
        self.first = _Residual(inputs, outputs, condition, config)
        self.second = _Residual(outputs, outputs, condition, config)
        self.resample = resample

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Features at this resolution, and at the next."""
        features = self.second(self.first(x, condition), condition)
        return features, self.resample(features)


@register("network", "unet1d")
class UNet1D(nn.Module):
    """Convolutions over the chunk's time axis; Tp must be divisible by 2 ** (levels - 1)."""

    def __init__(
        self, config: UNet1DConfig, *, action_size: int, horizon: int, obs_horizon: int, condition_size: int
    ) -> None:
        super().__init__()
        factor = 2 ** (len(config.channels) - 1)
        if horizon % factor:
            raise ConfigError(
                f"unet1d with {len(config.channels)} levels halves the chunk {len(config.channels) - 1} "
                f"times: pred_horizon {horizon} must be divisible by {factor}."
            )
        self.config = config
        self.level = level_encoder(config.embedding)
        condition = obs_horizon * condition_size + config.embedding
        widths = (action_size, *config.channels)
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList()
        for index, (inputs, outputs) in enumerate(pairs):
            last = index == len(pairs) - 1
            resample = nn.Identity() if last else nn.Conv1d(outputs, outputs, 3, 2, 1)
            self.down.append(_Level(inputs, outputs, condition, config, resample))
        deepest = widths[-1]
        self.middle = nn.ModuleList(_Residual(deepest, deepest, condition, config) for _ in range(2))
        self.up = nn.ModuleList(
            _Level(2 * outputs, inputs, condition, config, nn.ConvTranspose1d(inputs, inputs, 4, 2, 1))
            for inputs, outputs in reversed(pairs[1:])
        )
        self.outlet = nn.Sequential(
            _conv_block(config.channels[0], config.channels[0], config),
            nn.Conv1d(config.channels[0], action_size, 1),
        )

    def forward(self, x: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        """`[B, Tp, Dz]`, `[B]`, `[B, To, Dc]` -> `[B, Tp, Dz]`."""
        context = torch.cat([self.level(level).to(condition.dtype), condition.flatten(1)], -1)
        hidden, skips = x.transpose(1, 2), []
        for stage in self.down:
            features, hidden = stage(hidden, context)
            skips.append(features)
        for block in self.middle:
            hidden = block(hidden, context)
        for stage in self.up:
            _, hidden = stage(torch.cat([hidden, skips.pop()], 1), context)
        return self.outlet(hidden).transpose(1, 2)
