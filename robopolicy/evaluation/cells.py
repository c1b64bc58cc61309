"""Cells of the results page that several tables have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from robopolicy.evaluation.results import Cell, Section, successes
from robopolicy.evaluation.statistics import Interval, method_interval

__all__ = ["NOT_RUN", "Results", "count_cell", "grouped", "interval_cell", "interval_of", "partial_note"]

NOT_RUN = "not run"
Results = Mapping[Cell, Mapping[str, Any]]


def interval_of(cells: Sequence[Cell], results: Results, definition: str = "success") -> Interval | None:
    """The method's interval over those of the cells that were run; None if none was."""
    tables = [successes(results[cell], definition) for cell in cells if cell in results]
    return method_interval(tables) if tables else None


def grouped(section: Section) -> Iterator[list[Cell]]:
    """Cells that differ in their training seed only."""
    for row in section.rows:
        cells = row.cells()
        for start in range(0, len(cells), len(row.seeds)):
            yield cells[start : start + len(row.seeds)]


def partial_note(run: Sequence[Cell], cells: Sequence[Cell]) -> str:
    """How many of a method's seeds were run, where not all were."""
    return f" ({len(run)} of {len(cells)} seeds)" if 0 < len(run) < len(cells) else ""


def count_cell(cell: Cell, results: Results) -> str:
    """Successes of all episodes."""
    if cell not in results:
        return NOT_RUN
    outcome = successes(results[cell])
    return f"{sum(outcome)}/{len(outcome)}"


def interval_cell(interval: Interval | None) -> str:
    """An estimate, or that there is none."""
    return NOT_RUN if interval is None else str(interval)
