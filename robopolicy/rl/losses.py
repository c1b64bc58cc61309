"""What goes into the slots of `ActorCritic`: functions chosen by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "TD_LOSSES",
    "WEIGHT_CAP",
    "advantage_weights",
    "conservative",
    "expectile",
    "first",
    "huber",
    "mean",
    "quantile",
    "smallest",
    "squared",
    "subset_min",
]

WEIGHT_CAP = 100.0
"""Advantage weights are clipped here (IQL)."""


def smallest(values: Tensor) -> Tensor:
    """Minimum over the ensemble: `[E, B]` to `[B]` (clipped double Q, Fujimoto et al. 2018)."""
    return values.amin(0)


def mean(values: Tensor) -> Tensor:
    """Mean over the ensemble."""
    return values.mean(0)


def first(values: Tensor) -> Tensor:
    """The first member."""
    return values[0]


def quantile(values: Tensor, q: float) -> Tensor:
    """Quantile over the ensemble, interpolated (RIQL, Yang et al. 2024)."""
    return torch.quantile(values, q, dim=0)


def subset_min(values: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Minimum over `count` members drawn anew for every call (REDQ, Chen et al. 2021)."""
    members = torch.randperm(len(values), generator=generator, device=values.device)[:count]
    return values[members].amin(0)


def squared(error: Tensor, delta: float) -> Tensor:
    """Squared error; `delta` is of no meaning here."""
    return error**2


def huber(error: Tensor, delta: float) -> Tensor:
    """Quadratic within +-delta, then linear; at zero it curves like the squared error."""
    return 2 * F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=delta)


def expectile(error: Tensor, tau: float) -> Tensor:
    """``|tau - 1(error < 0)| error^2`` with error = target - estimate (IQL, Kostrikov et al. 2021)."""
    return torch.where(error < 0, 1 - tau, tau) * error**2


def advantage_weights(advantage: Tensor, beta: float) -> Tensor:
    """``exp(beta * advantage)``, clipped at 100; beta is an inverse temperature."""
    return (beta * advantage).clamp(max=math.log(WEIGHT_CAP)).exp()


def conservative(
    random: Tensor, proposed: Tensor, log_prob: Tensor, given: Tensor, actions: int, returns: Tensor | None
) -> Tensor:
    """Gap of CQL(H) between the soft maximum over actions and the actions in the data, `[E, B]`.

    Args:
        random: values of uniform actions `[E, n, B]`.
        proposed: values of the actor's actions `[E, m, B]`, with their densities `log_prob` `[m, B]`.
        given: values of the data's actions `[E, B]`.
        actions: Da.
        returns: the behaviour's `[B]`; values below are lifted to them (Cal-QL, Nakamoto et al. 2023).
    """
    if returns is not None:
        proposed = torch.maximum(proposed, returns.expand_as(proposed))
    weighted = torch.cat([random + actions * math.log(2), proposed - log_prob], 1)
    return weighted.logsumexp(1) - given


TD_LOSSES: dict[str, Callable[[Tensor, float], Tensor]] = {"mse": squared, "huber": huber}
