"""Mish (Misra 2019) without its slow CPU kernel."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Mish"]


class Mish(nn.Module):
    """``x * tanh(softplus(x))``. Torch's CPU kernel takes three slow functions; one sigmoid will do."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape and floating dtype."""
        if x.device.type != "cpu" or x.dtype == torch.float64 or torch.compiler.is_compiling():
            return F.mish(x)
        result: Tensor = _Mish.apply(x)
        return result


class _Mish(torch.autograd.Function):
    # With s = sigmoid(x) and m = s (2 - s), tanh(softplus(x)) is m / (2 - m), and its slope
    # 4 s ((1 - s) / (2 - m))^2.

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        s = x.float().sigmoid()
        ctx.save_for_backward(x, s)
        gate = torch.rsub(s, 2).mul_(s)
        return gate.div_(2 - gate).mul_(x).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x, s = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants the derivative of this
            gate = F.softplus(x).tanh()
            return gradient * (gate + x * x.sigmoid() * (1 - gate * gate))
        m = torch.rsub(s, 2).mul_(s)
        inverse = torch.rsub(m, 2).reciprocal_()
        slope = torch.rsub(s, 1).square_().mul_(s).mul_(inverse).mul_(x)
        return m.add_(slope, alpha=4).mul_(inverse).mul_(gradient.contiguous()).to(x.dtype)
