"""Mish (Misra 2019) without its slow CPU kernel."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CEILING", "Mish"]

CEILING = 20.0
"""tanh(softplus(x)) is 1 beyond it, to the last digit of a float32."""


class Mish(nn.Module):
    """``x * tanh(softplus(x))``. Torch's CPU kernel takes three slow functions; one exponential will do."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape and floating dtype."""
        if x.device.type != "cpu" or x.dtype == torch.float64 or torch.compiler.is_compiling():
            return F.mish(x)
        result: Tensor = _Mish.apply(x)
        return result


class _Mish(torch.autograd.Function):
    # With e = exp(x) and n = e (e + 2), tanh(softplus(x)) = n / (n + 2); its slope is 4 (n - e) / (n + 2)^2.

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        e = x.float().clamp(max=CEILING).exp_()
        gate = (e + 2).mul_(e)
        ctx.save_for_backward(x, e)
        return gate.div_(gate + 2).mul_(x).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x, e = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants the derivative of this
            gate = F.softplus(x).tanh()
            return gradient * (gate + x * x.sigmoid() * (1 - gate * gate))
        n = (e + 2).mul_(e)
        inverse = (n + 2).reciprocal_()
        slope = torch.sub(n, e).mul_(inverse).mul_(x)
        return n.add_(slope, alpha=4).mul_(inverse).mul_(gradient.contiguous()).to(x.dtype)
