"""Drawn lines: resampled by the distance along them, so that how fast they were drawn leaves no trace."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from robopolicy.errors import ConfigError

__all__ = ["POINTS", "Lines", "resample"]

POINTS = 64
"""Of a resampled sketch."""


def resample(points: ArrayLike, count: int = POINTS) -> np.ndarray:
    """`count` points at equal distances along the line through `points` `[M, P]`: float64 `[count, P]`.

    The first and the last stay. Resampling again changes nothing.

    Raises:
        ConfigError: fewer than two different points, numbers that are not finite, or count < 2.
    """
    line = np.asarray(points, np.float64)
    if line.ndim != 2 or count < 2 or not np.isfinite(line).all():
        raise ConfigError(f"A sketch is [M, P] finite numbers and count >= 2, got {line.shape} and {count}.")
    steps = np.linalg.norm(np.diff(line, axis=0), axis=1)
    kept = np.concatenate([[True], steps > 0])  # a pen at rest
    if kept.sum() < 2:
        raise ConfigError(f"A sketch needs two different points, got {line.tolist()}.")
    line = line[kept]
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    wanted = np.linspace(0.0, along[-1], count)
    return np.stack([np.interp(wanted, along, column) for column in line.T], axis=1)


class Lines:
    """S polylines of M points, `[S, M, P]`, measured along their length."""

    def __init__(self, points: Tensor) -> None:
        self.points = points
        steps = (points[:, 1:] - points[:, :-1]).norm(dim=-1)
        self.along = torch.cat([torch.zeros_like(steps[:, :1]), steps.cumsum(1)], 1)
        """Distance from the start to each point, `[S, M]`."""

    @property
    def length(self) -> Tensor:
        """`[S]`."""
        return self.along[:, -1]

    def nearest(self, places: Tensor) -> Tensor:
        """How far along each line its point nearest to a place `[S, P]` is: `[S]`."""
        start, step = self.points[:, :-1], self.points[:, 1:] - self.points[:, :-1]
        square = step.square().sum(-1)
        share = ((places[:, None] - start) * step).sum(-1) / square.clamp_min(1e-12)
        share = share.clamp(0, 1)
        gap = (start + share[..., None] * step - places[:, None]).norm(dim=-1)
        best = gap.argmin(1, keepdim=True)
        return (self.along.gather(1, best) + share.gather(1, best) * square.sqrt().gather(1, best))[:, 0]

    def at(self, distance: Tensor) -> Tensor:
        """Points at distances `[S, T]` along the lines: `[S, T, P]`; the ends are held."""
        inside = distance.clamp_min(0).minimum(self.length[:, None])
        after = torch.searchsorted(self.along, inside.contiguous()).clamp(1, self.along.shape[1] - 1)
        low, high = self.along.gather(1, after - 1), self.along.gather(1, after)
        share = ((inside - low) / (high - low).clamp_min(1e-12))[..., None]
        columns = self.points.shape[-1]
        first = self.points.gather(1, (after - 1)[..., None].expand(-1, -1, columns))
        second = self.points.gather(1, after[..., None].expand(-1, -1, columns))
        return first + share * (second - first)
