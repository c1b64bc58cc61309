"""What every policy that learns to denoise does with a clean chunk."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["add_noise", "draw_levels", "masked_mean"]


def draw_levels(table: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` noise levels drawn uniformly from `table` `[T]`: `[count]`."""
    return table[torch.randint(len(table), (count,), generator=generator, device=table.device)]


def add_noise(clean: Tensor, sigma: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``clean + sigma * noise`` and the noise, both `[B, Tp, Dz]`, for noise levels `[B]`."""
    noise = torch.empty_like(clean).normal_(generator=generator)
    return torch.addcmul(clean, sigma[:, None, None], noise), noise


def masked_mean(error: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of `error` `[B, Tp, Dz]` over the steps that `mask` `[B, Tp]` keeps (None: all)."""
    if mask is None:
        return error.mean()
    weight = mask[..., None].to(error.dtype)
    return (error * weight).sum() / (weight.sum() * error.shape[-1]).clamp_min(1)
