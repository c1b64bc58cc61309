"""Where a robosuite task puts its object at a reset."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Placement"]


class Placement:
    """The range that one object is placed in: of positions and, unless it is the full circle, of angles.

    Args:
        suite: a robosuite task.
        body: the object's.
    """

    def __init__(self, suite: Any, body: str) -> None:
        whole = suite.placement_initializer  # of one sampler, or of one for each object
        found = [
            (sampler, placed)
            for sampler in getattr(whole, "samplers", {"": whole}).values()
            for placed in sampler.mujoco_objects
            if placed.root_body == body
        ]
        self._sampler, placed = found[0]
        inside = self._sampler.ensure_object_boundary_in_range
        self._radius = float(placed.horizontal_radius) if inside else 0.0
        self._usual = (self._sampler.x_range, self._sampler.y_range, self._sampler.rotation)

    def widen(self, factor: float) -> None:
        """Place from now on in `factor` times robosuite's range, about the same centre."""
        x, y, turn = self._usual
        if factor != 1:  # what is computed may differ from it in the last bit
            x, y = _widened(x, factor, self._radius), _widened(y, factor, self._radius)
            turn = _widened(turn, factor, 0.0) if np.ndim(turn) else turn
        self._sampler.x_range, self._sampler.y_range, self._sampler.rotation = x, y, turn


def _widened(limits: Any, factor: float, radius: float) -> np.ndarray:
    """Limits of an object's edge `[2]`, such that the range of its centre grows by `factor`."""
    inset = np.array([radius, -radius])
    centres = np.array(limits) + inset
    middle = centres.mean()
    widened: np.ndarray = middle + factor * (centres - middle) - inset
    return widened
