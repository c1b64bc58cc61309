"""What a person wants of a plan: to pass a point, to follow a sketch, to give way to a nudge.

A plan is matched at its own pace: row j of it belongs to the point of the sketch that is as far ahead as the
plan has travelled by then. Rows beyond a sketch's end are free.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from robopolicy.errors import ConfigError
from robopolicy.steering.positions import PositionsConfig
from robopolicy.steering.sketch import Lines, resample

__all__ = ["Guidance", "GuidanceConfig", "Nudge", "Point", "Sketch"]


class Guidance(abc.ABC):
    """One wish for all rows of a batch, or one for each."""

    values: Tensor
    """`[S, ...]`: S is 1, or the number of observations."""
    size: int
    """P, coordinates of a position."""

    def target(self, plan: Tensor, here: Tensor, past: int) -> tuple[Tensor, Tensor]:
        """Where the rows of plans `[N, Tp, P]` that begin at `here` `[N, P]` should be, and which matter.

        Args:
            past: rows that are history already.

        Returns:
            Positions `[N, Tp, P]`, and 1 for rows that are wanted there, 0 for those that are free `[N, Tp]`.

        Raises:
            ConfigError: wishes for another number of observations.
        """
        many = len(self.values)
        if len(plan) % many:
            raise ConfigError(f"{many} wishes do not fit {len(plan)} plans.")
        values, here = self.values.to(plan).repeat_interleave(len(plan) // many, 0), here.to(plan)
        ahead = torch.cat([here[:, None].expand(-1, past, -1), plan.detach()[:, past:]], 1)
        target, wanted = self.match(values, ahead, here)
        wanted[:, :past] = 0
        return target, wanted

    @abc.abstractmethod
    def match(self, values: Tensor, plan: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
        """`target`, with the wish of each row `[N, ...]`."""


class Point(Guidance):
    """The plan should pass through a place: its row that comes nearest counts.

    Args:
        places: `[P]`, or `[S, P]`.
    """

    def __init__(self, places: ArrayLike) -> None:
        self.values = _finite(np.atleast_2d(np.asarray(places, np.float64)), 2)
        self.size = self.values.shape[-1]

    def match(self, values: Tensor, plan: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
        """The place, and the nearest row."""
        target = values[:, None].expand_as(plan)
        row = (plan - target).norm(dim=-1).argmin(1, keepdim=True)
        return target, torch.zeros_like(plan[..., 0]).scatter_(1, row, 1.0)


class Sketch(Guidance):
    """The plan should follow a line that was drawn, from its point nearest to the end-effector on.

    Args:
        lines: one line `[M, P]`, or S of them.
    """

    def __init__(self, lines: ArrayLike | Sequence[ArrayLike]) -> None:
        one = np.ndim(lines[0]) == 1  # type: ignore[index]
        drawn = [lines] if one else lines
        self.values = _finite(np.stack([resample(line) for line in drawn]), 3)  # type: ignore[union-attr, arg-type]
        self.size = self.values.shape[-1]

    def match(self, values: Tensor, plan: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
        """Points of the sketch as far ahead as the plan has travelled."""
        lines = Lines(values)
        steps = torch.diff(plan, dim=1, prepend=here[:, None]).norm(dim=-1)
        distance = lines.nearest(here)[:, None] + steps.cumsum(1)
        return lines.at(distance), (distance <= lines.length[:, None]).to(plan)


class Nudge(Guidance):
    """The plan should first move by this much, straight from where the end-effector is.

    Args:
        displacements: `[P]`, or `[S, P]`.
    """

    def __init__(self, displacements: ArrayLike) -> None:
        self.values = _finite(np.atleast_2d(np.asarray(displacements, np.float64)), 2)
        self.size = self.values.shape[-1]
        if bool((self.values == 0).all(-1).any()):
            raise ConfigError("A nudge has a direction; this one is zero.")

    def match(self, values: Tensor, plan: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
        """A sketch of two points."""
        line = torch.stack([here, here + values], 1)
        steps = torch.diff(plan, dim=1, prepend=here[:, None]).norm(dim=-1).cumsum(1)
        lines = Lines(line)
        return lines.at(steps), (steps <= lines.length[:, None]).to(plan)


@dataclass(frozen=True, kw_only=True)
class GuidanceConfig:
    """What is wanted, in the units of the position: one of point, sketch and nudge."""

    point: tuple[float, ...] = ()
    sketch: tuple[tuple[float, ...], ...] = ()
    nudge: tuple[float, ...] = ()
    positions: PositionsConfig = field(default_factory=PositionsConfig)

    def __post_init__(self) -> None:
        if sum(map(bool, (self.point, self.sketch, self.nudge))) > 1:
            raise ConfigError("Give one of steer.point, steer.sketch and steer.nudge.")

    def guidance(self) -> Guidance:
        """The wish.

        Raises:
            ConfigError: there is none.
        """
        if self.point:
            return Point(self.point)
        if self.sketch:
            return Sketch(self.sketch)
        if self.nudge:
            return Nudge(self.nudge)
        raise ConfigError("Nothing is wanted: give one of steer.point, steer.sketch and steer.nudge.")


def _finite(values: np.ndarray, dimensions: int) -> Tensor:
    if values.ndim != dimensions or not values.size or not np.isfinite(values).all():
        raise ConfigError(f"Guidance is finite numbers, got {values.shape}.")
    return torch.from_numpy(values)
