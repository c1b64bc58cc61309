"""Flat scenes from above as pictures, thousands a second and without OpenGL."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["TABLE", "Colour", "TopView"]

Colour = tuple[int, int, int]
TABLE: Colour = (230, 230, 224)


class TopView:
    """A square part of the xy plane, y upwards in the picture; edges are smoothed over one pixel.

    Args:
        low: its lower left corner, metres.
        high: its upper right corner.
    """

    def __init__(self, *, low: tuple[float, float], high: tuple[float, float]) -> None:
        self._low, self._width = np.array(low), high[0] - low[0]
        self._key: tuple[int, bytes] | None = None
        self._cached = np.empty((0, 0, 3), np.uint8)

    def background(
        self,
        size: int,
        lines: Sequence[tuple[float, Colour]],
        centres: np.ndarray,
        radius: float,
        colour: Colour,
    ) -> np.ndarray:
        """What rests during an episode: lines of constant y and discs at `centres` `[N, 2]`.

        Drawn once and kept until the centres or the size change.
        """
        key = (size, centres.tobytes())
        if key != self._key:
            picture = np.full((size, size, 3), TABLE, np.uint8)
            thick = max(1, size // 64)
            for y, line_colour in lines:
                row = int(size - (y - self._low[1]) / self._width * size)
                picture[row : row + thick] = line_colour
            for centre in centres:
                self._draw(picture, centre, radius, colour)
            self._key, self._cached = key, picture
        return self._cached

    def disc(self, picture: np.ndarray, centre: np.ndarray, radius: float, colour: Colour) -> np.ndarray:
        """A copy of a picture with one disc more."""
        drawn = picture.copy()
        self._draw(drawn, centre, radius, colour)
        return drawn

    def _draw(self, picture: np.ndarray, centre: np.ndarray, radius: float, colour: Colour) -> None:
        size = len(picture)
        column, row = (centre - self._low) / self._width * size
        row = size - row
        reach = radius / self._width * size
        top, left = max(0, int(row - reach) - 1), max(0, int(column - reach) - 1)
        bottom, right = int(row + reach) + 2, int(column + reach) + 2
        patch = picture[top:bottom, left:right]
        rows = np.arange(top, top + patch.shape[0]) + 0.5 - row
        columns = np.arange(left, left + patch.shape[1]) + 0.5 - column
        distance = np.sqrt(rows[:, None] ** 2 + columns**2)
        cover = np.clip(reach + 0.5 - distance, 0.0, 1.0)[..., None]
        patch[:] = np.rint(patch + cover * (np.array(colour) - patch))
