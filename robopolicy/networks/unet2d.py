"""A 2-D U-Net with adaptive group norm, of the size DIAMOND plays Atari with (Alonso et al. 2024)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robopolicy.errors import ConfigError

__all__ = ["GROUP", "UNet2D", "UNet2DConfig"]

GROUP = 32
"""Channels of a normalisation group, at most."""


@dataclass(frozen=True, kw_only=True)
class UNet2DConfig:
    """The defaults are 4.4 M parameters."""

    channels: tuple[int, ...] = (64, 64, 64, 64)
    """Of each resolution; each but the last is halved."""
    depth: int = 2
    """Residual blocks at each resolution."""
    attention: tuple[bool, ...] = (False, False, False, False)
    """Self-attention at each resolution; between down and up there is always some."""
    condition: int = 256
    """Size of the vector that scales and shifts every norm."""

    def __post_init__(self) -> None:
        if not self.channels or len(self.attention) != len(self.channels) or self.depth < 1:
            raise ConfigError(f"unet2d needs channels, as many entries of attention, depth >= 1; got {self}.")
        if any(width % 8 for width in self.channels):
            raise ConfigError(f"unet2d: channels must be multiples of 8, got {list(self.channels)}.")


class UNet2D(nn.Module):
    """Pictures `[B, inputs, H, W]` and conditions `[B, C]` to `[B, outputs, H, W]`, zero at first."""

    def __init__(self, config: UNet2DConfig, *, inputs: int, outputs: int) -> None:
        super().__init__()
        self.factor = 2 ** (len(config.channels) - 1)
        widths, size = config.channels, config.condition
        self.inlet = nn.Conv2d(inputs, widths[0], 3, 1, 1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        skips = []
        for level, (before, width) in enumerate(itertools.pairwise((widths[0], *widths))):
            attends = config.attention[level]
            ins = [before, *[width] * (config.depth - 1)]
            self.down.append(nn.ModuleList(_Residual(i, width, size, attends) for i in ins))
            skips.append([before, *[width] * config.depth])
            last = level == len(widths) - 1
            self.shrink.append(nn.Identity() if last else nn.Conv2d(width, width, 3, 2, 1))
        deepest = widths[-1]
        self.middle = nn.ModuleList(_Residual(deepest, deepest, size, True) for _ in range(2))
        for level in reversed(range(len(widths))):
            width, after = widths[level], widths[max(level - 1, 0)]
            outs = [*[width] * config.depth, after]
            ins = [width, *outs[:-1]]
            joined = [i + skip for i, skip in zip(ins, reversed(skips[level]), strict=True)]
            self.up.append(
                nn.ModuleList(
                    _Residual(i, o, size, config.attention[level]) for i, o in zip(joined, outs, strict=True)
                )
            )
            self.grow.append(nn.Conv2d(after, after, 3, 1, 1) if level else nn.Identity())
        self.norm = _AdaptiveNorm(widths[0], size)
        self.outlet = _zero(nn.Conv2d(widths[0], outputs, 3, 1, 1))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """H and W must be divisible by 2 ** (resolutions - 1)."""
        hidden, skips = self.inlet(x), []
        for blocks, shrink in zip(self.down, self.shrink, strict=True):
            assert isinstance(blocks, nn.ModuleList)
            kept = [hidden]
            for block in blocks:
                hidden = block(hidden, condition)
                kept.append(hidden)
            skips.append(kept)
            hidden = shrink(hidden)
        for block in self.middle:
            hidden = block(hidden, condition)
        for blocks, grow in zip(self.up, self.grow, strict=True):
            assert isinstance(blocks, nn.ModuleList)
            kept = skips.pop()
            for block in blocks:
                hidden = block(torch.cat([hidden, kept.pop()], 1), condition)
            if isinstance(grow, nn.Conv2d):
                hidden = grow(F.interpolate(hidden, scale_factor=2.0, mode="nearest"))
        result: Tensor = self.outlet(F.silu(self.norm(hidden, condition)))
        return result


class _AdaptiveNorm(nn.Module):
    """Group norm whose scale and shift come from the condition."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.groups = max(1, width // GROUP)
        self.modulation = nn.Linear(condition, 2 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, 1)
        return F.group_norm(x, self.groups) * (1 + scale) + shift


class _Residual(nn.Module):
    """Two convolutions, the second of which begins at zero, a shortcut, and attention if wanted."""

    def __init__(self, inputs: int, outputs: int, condition: int, attends: bool) -> None:
        super().__init__()
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.first_norm = _AdaptiveNorm(inputs, condition)
        self.first = nn.Conv2d(inputs, outputs, 3, 1, 1)
        self.second_norm = _AdaptiveNorm(outputs, condition)
        self.second = _zero(nn.Conv2d(outputs, outputs, 3, 1, 1))
        self.attention = _Attention(outputs) if attends else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        hidden = self.first(F.silu(self.first_norm(x, condition)))
        hidden = self.second(F.silu(self.second_norm(hidden, condition)))
        result: Tensor = self.attention(hidden + self.skip(x))
        return result


class _Attention(nn.Module):
    """Self-attention over all places, added on; it begins at zero."""

    def __init__(self, width: int, head: int = 8) -> None:
        super().__init__()
        self.heads = max(1, width // head)
        self.norm = nn.GroupNorm(max(1, width // GROUP), width)
        self.inlet = nn.Conv2d(width, 3 * width, 1)
        self.outlet = _zero(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, width, height, breadth = x.shape
        parts = self.inlet(self.norm(x)).view(batch, 3, self.heads, width // self.heads, -1)
        query, key, value = parts.transpose(-1, -2).unbind(1)
        seen = F.scaled_dot_product_attention(query, key, value)
        result: Tensor = x + self.outlet(seen.transpose(-1, -2).reshape(batch, width, height, breadth))
        return result


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    with torch.no_grad():
        layer.weight.zero_()
        if layer.bias is not None:
            layer.bias.zero_()
    return layer
