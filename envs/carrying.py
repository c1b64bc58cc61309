"""By which route an object was carried to where it belongs: what tells Square's demonstrations apart."""

from __future__ import annotations

import numpy as np

__all__ = ["ROUTES", "route_carried"]

ROUTES = ("direct", "over", "left", "right")
_LIFTED = 0.015
"""Metres above where it lay: it is off the table."""
_HIGH = 0.075
"""Metres reached in a tenth of the way, by going up before going along."""
_ASIDE = 0.02
"""Metres from the straight line: unsteady hands stay within."""


def route_carried(position: np.ndarray) -> str | None:
    """ "over": up first, then along; "left", "right": round one side of the straight line; else "direct".

    Args:
        position: of the object, `[T, 3]`, metres; the episode ends where the object belongs.

    Returns:
        None if it was never lifted, or was put down where it was.
    """
    rise = position[:, 2] - position[0, 2]
    lifted = rise > _LIFTED
    if not lifted.any():
        return None
    first = int(np.argmax(lifted))
    moved = position[first:, :2] - position[first, :2]
    length = float(np.linalg.norm(moved[-1]))
    if length < 2 * _ASIDE:
        return None
    forward = moved[-1] / length
    along, aside = moved @ forward / length, moved @ np.array([-forward[1], forward[0]])
    if rise[first + int(np.argmax(along > 0.1))] > _HIGH:
        return "over"
    widest = float(aside[np.argmax(np.abs(aside))])
    if abs(widest) < _ASIDE:
        return "direct"
    return "left" if widest > 0 else "right"
