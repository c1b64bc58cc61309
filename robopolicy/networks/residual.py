"""A residual network on top of a frozen one, joined by layers that start at zero (FDP, arXiv 2509.16830).

The frozen base reads the first part of the condition, the residual the rest. Whatever the residual holds, the
sum equals the base bit for bit until the zero layers have moved.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from robopolicy.errors import ConfigError
from robopolicy.networks.attention import Undecayed
from robopolicy.networks.unet1d import UNet1D

__all__ = ["Block", "BlockResidual", "OutputResidual", "blocks"]


class Block(NamedTuple):
    """A module of a network whose output another network's block is added to."""

    module: nn.Module
    width: int
    is_convolution: bool
    """Outputs are `[B, width, T]`, otherwise `[B, ..., width]`."""


def blocks(network: nn.Module) -> list[Block]:
    """The blocks of a network, in order.

    In a U-Net they are the last residual block of every level and the two in the middle: on the way down what
    is added reaches the next level and the skip connection, both.

    Raises:
        ConfigError: the network has none that are known.
    """
    if isinstance(network, UNet1D):
        widths = network.config.channels
        ends = [level.second for level in [*network.down, *network.up]]
        modules = [*ends[: len(widths)], *network.middle, *ends[len(widths) :]]
        sizes = [*widths, widths[-1], widths[-1], *reversed(widths[:-1])]
        return [Block(m, size, True) for m, size in zip(modules, sizes, strict=True)]
    found = getattr(network, "blocks", getattr(network, "layers", None))
    width = getattr(getattr(network, "config", None), "width", None)
    if not isinstance(found, nn.ModuleList) or not isinstance(width, int):
        raise ConfigError(
            f"{type(network).__name__} has no blocks to add to one by one; choose another network, or "
            "policy.composition=output."
        )
    return [Block(module, width, False) for module in found]


class BlockResidual(nn.Module):
    """Adds every block of `residual` to that block of a base: FDP's proposed composition."""

    def __init__(
        self,
        base: nn.Module,
        residual: nn.Module,
        *,
        horizon: int,
        obs_horizon: int,
        sizes: tuple[int, int, int],
    ) -> None:
        """`sizes` are those of an action, of the base's condition and of the residual's.

        Raises:
            ConfigError: the networks differ in the number or kind of their blocks.
        """
        super().__init__()
        self.residual, self.sizes = residual, sizes[1:]
        theirs, ours = blocks(base), blocks(residual)
        if type(base) is not type(residual) or len(theirs) != len(ours):
            raise ConfigError(
                f"The base's {type(base).__name__} has {len(theirs)} blocks, the residual's "
                f"{type(residual).__name__} {len(ours)}: one is added to each. Choose the base's network."
            )
        self.zero = nn.ModuleList(_zero_layer(a, b.width) for a, b in zip(ours, theirs, strict=True))
        inputs = torch.zeros(1, horizon, sizes[0]), torch.zeros(1), torch.zeros(1, obs_horizon, sizes[2])
        used = torch.autograd.grad(
            sum(feature.sum() for feature in self._features(*inputs)),  # type: ignore[arg-type]
            tuple(residual.parameters()),
            allow_unused=True,
        )
        for parameter, gradient in zip(residual.parameters(), used, strict=True):
            parameter.requires_grad_(gradient is not None)  # the head after the last block has no part

    def forward(self, base: nn.Module, x: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        """`[B, Tp, Dz]`, `[B]`, `[B, To, base's + residual's size]` -> `[B, Tp, Dz]`."""
        known, seen = condition.split(self.sizes, -1)
        features = self._features(x, level, seen)
        with _at_blocks(base, lambda i, output: output + self.zero[i](features[i])):
            result: Tensor = base(x, level, known)
        return result

    def _features(self, x: Tensor, level: Tensor, condition: Tensor) -> list[Tensor]:
        features: list[Tensor] = []
        with _at_blocks(self.residual, lambda i, output: features.append(output)):
            self.residual(x, level, condition)
        return features


class OutputResidual(nn.Module):
    """Adds the residual's output to the base's: FDP's ablation."""

    def __init__(self, residual: nn.Module, sizes: tuple[int, int, int]) -> None:
        super().__init__()
        self.residual, self.sizes = residual, sizes[1:]
        self.zero = _zero_layer(Block(residual, sizes[0], False), sizes[0])

    def forward(self, base: nn.Module, x: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        """`[B, Tp, Dz]`, `[B]`, `[B, To, base's + residual's size]` -> `[B, Tp, Dz]`."""
        known, seen = condition.split(self.sizes, -1)
        result: Tensor = base(x, level, known) + self.zero(self.residual(x, level, seen))
        return result


class _ZeroLinear(Undecayed, nn.Linear):
    """Decay would pull back to the base what has only begun to move away from it."""


class _ZeroConv1d(Undecayed, nn.Conv1d):
    """The same for blocks of convolutions."""


def _zero_layer(block: Block, width: int) -> nn.Module:
    layer: nn.Module = (
        _ZeroConv1d(block.width, width, 1) if block.is_convolution else _ZeroLinear(block.width, width)
    )
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


@contextlib.contextmanager
def _at_blocks(network: nn.Module, act: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
    """Inside, `act(i, output)` sees the output of block i and may replace it."""
    handles: list[RemovableHandle] = []
    try:
        for i, block in enumerate(blocks(network)):
            handles.append(block.module.register_forward_hook(lambda m, inputs, out, i=i: act(i, out)))
        yield
    finally:
        for handle in handles:
            handle.remove()
