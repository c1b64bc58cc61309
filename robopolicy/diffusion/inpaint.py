"""Continuing a chunk that is being executed: denoisers that pull a prefix toward known actions.

Both wrap a `Denoiser` and are one. `weights` say how strongly each row is held (1: it is given, 0: it is
free); `known` are the actions in the codec's space. See Black et al. 2025, Real-Time Execution of Action
Chunking Flow Policies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robopolicy.diffusion.denoiser import Denoiser
from robopolicy.errors import ConfigError

__all__ = ["GuidedContinuation", "Inpaint"]


class _Held:
    def __init__(self, denoiser: Denoiser, known: Tensor, weights: Tensor) -> None:
        if known.ndim != 3 or weights.shape != (known.shape[1],):
            raise ConfigError(
                f"known is [B, Tp, Dz] and weights [Tp], got {list(known.shape)} and {list(weights.shape)}."
            )
        self.denoiser, self.known, self.weights = denoiser, known, weights[:, None].to(known)


class Inpaint(_Held):
    """D' = D + W (known - D): the clean estimate itself is replaced, which costs nothing.

    Args:
        known: `[B, Tp, Dz]`.
        weights: `[Tp]`, in [0, 1].

    Raises:
        ConfigError: the shapes do not fit.
    """

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        clean = self.denoiser(x, sigma)
        return clean + self.weights * (self.known - clean)


class GuidedContinuation(_Held):
    """D' = D + c J^T W (known - D), with J the whole Jacobian of D by x and c = min(beta sigma, 1 + sigma^2).

    So the rows after the prefix follow it too. Costs one backward pass a step, and runs with gradients
    enabled whatever the caller's mode.

    Args:
        known: `[B, Tp, Dz]`.
        weights: `[Tp]`, in [0, 1].
        largest: beta, the paper's bound on the guidance weight.

    Raises:
        ConfigError: the shapes do not fit, or beta is not positive.
    """

    def __init__(self, denoiser: Denoiser, known: Tensor, weights: Tensor, *, largest: float = 5.0) -> None:
        super().__init__(denoiser, known, weights)
        if not largest > 0:
            raise ConfigError(f"largest must be positive, got {largest}.")
        self.largest = largest

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            start = x.detach().clone().requires_grad_()
            clean = self.denoiser(start, sigma.clone())
            pull = (self.weights.clone() * (self.known.clone() - clean)).detach()
            (change,) = torch.autograd.grad(clean, start, pull)
        scale = torch.minimum(self.largest * sigma, 1 + sigma**2)[:, None, None]
        return clean.detach() + scale * change
