"""Markdown tables and the cells that several of them have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Files", "Values", "interval", "markdown", "points", "success"]

Values = Mapping[str, Any]
Files = Mapping[str, Values]
"""By name, without ``.json``."""


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table.

    Raises:
        ValueError: a line has another number of cells than the head.
    """
    if other := next((line for line in lines if len(line) != len(head)), None):
        raise ValueError(
            f"A table of {len(head)} columns, {list(head)}, has a line of {len(other)}: {list(other)}."
        )
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def success(values: Values) -> str:
    """A rate with its interval, in percent."""
    return f"{values['value']:.1%} [{values['low']:.1%}, {values['high']:.1%}]"


def interval(values: Values) -> str:
    """A number with its interval."""
    return f"{values['value']:.2f} [{values['low']:.2f}, {values['high']:.2f}]"


def points(values: Values | None) -> str:
    """A difference of rates with its interval, in points; a dash where there is none."""
    if values is None:
        return "-"
    return f"{100 * values['value']:+.1f} [{100 * values['low']:+.1f}, {100 * values['high']:+.1f}]"
