"""What refinement gained and cost: in success, in return, and over environment steps."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from robopolicy.evaluation.cells import (
    NOT_RUN,
    Results,
    count_cell,
    grouped,
    interval_cell,
    interval_of,
    partial_note,
)
from robopolicy.evaluation.markdown import markdown
from robopolicy.evaluation.plots import Curve, Measure
from robopolicy.evaluation.ranking import bootstrap_mean
from robopolicy.evaluation.results import Cell, Section, successes
from robopolicy.evaluation.statistics import paired_difference

__all__ = ["CURVES", "ELSEWHERE", "SPLIT", "curves", "refinement_table", "returns_table"]

SPLIT = "Minutes per million steps: env, sampling, update"
CURVES: Mapping[str, Measure] = {"refinement": "success", "returns": "return"}
"""What the curves of a table show."""
ELSEWHERE = ("jsrl", "rlpd", "sac")
"""Methods whose curves need not begin at a base: those from nothing, and JSRL, which began at its learner."""


def refinement_table(section: Section, results: Results) -> str:
    """Success of the base and after each method, on the same episodes."""
    head = ["Task", "Method", "Base", "Seeds", "After [95%]", "Gain [95%]", "Steps to 80/90/95% (selection)"]
    head += ["Steps", SPLIT]
    lines = []
    for cells in _refined(section):
        first, run = cells[0], [cell for cell in cells if cell in results]
        line = [first.task, first.method_label, count_cell(first.base, results)]
        line.append(", ".join(count_cell(cell, results) for cell in cells))
        if run:
            tables = [successes(results[cell]) for cell in run]
            gain = "base not run"
            if first.base in results:
                gain = str(paired_difference(tables, [successes(results[first.base])]))
            line += [interval_cell(interval_of(run, results)) + partial_note(run, cells), gain]
            records = [results[cell]["refinement"] for cell in run]
            line.append("; ".join(_milestones(r["steps_to"]) for r in records))
            line.append(", ".join(_steps(r["env_steps"]) for r in records))
            line.append(_minutes(records))
        else:
            line += [NOT_RUN, "", "", "", _estimate(first, results)]
        lines.append(line)
    return markdown(head, lines)


def returns_table(section: Section, results: Results) -> str:
    """Mean return of the base and after each method, on the same episodes, a line for each seed."""
    head = ["Task", "Method", "Seed", "Base [95%]", "After [95%]", "Gain [95%]", "Steps", SPLIT]
    lines = []
    for cell in itertools.chain.from_iterable(_refined(section)):
        line = [cell.task, cell.method_label, str(cell.seed)]
        before, after = (_rewards(each, results) for each in (cell.base, cell))
        line.append(_mean_return(before))
        if after is None:
            line += [NOT_RUN, "", "", _estimate(cell, results)]
        else:
            gain = None if before is None else [a - b for a, b in zip(after, before, strict=True)]
            record = results[cell]["refinement"]
            line += [_mean_return(after), _mean_return(gain), _steps(record["env_steps"]), _minutes([record])]
        lines.append(line)
    return markdown(head, lines)


def _rewards(cell: Cell, results: Results) -> list[float] | None:
    """Return of each episode, in the order of their seeds."""
    if cell not in results:
        return None
    return [float(row["total_reward"]) for row in results[cell]["evaluation"]["episodes"]]


def _mean_return(values: Sequence[float] | None) -> str:
    if values is None:
        return NOT_RUN
    found = bootstrap_mean(values)
    return f"{found.value:.0f} [{found.low:.0f}, {found.high:.0f}]"


def _minutes(records: Sequence[Mapping[str, Any]]) -> str:
    """Mean minutes a million steps that environment, sampling and update take."""
    parts = {k: [r["minutes_per_million"][k] for r in records] for k in ("env", "sampling", "update")}
    return ", ".join(f"{sum(values) / len(values):.0f}" for values in parts.values())


def _estimate(cell: Cell, results: Results) -> str:
    """What a run of the cell would take at its method's mean pace, on its task where there are runs."""
    planned = [word.partition("=")[2] for word in cell.settings if word.startswith("steps=")]
    alike = {other: result for other, result in results.items() if other.method == cell.method}
    same = [result for other, result in alike.items() if other.task == cell.task]
    paces = [sum(result["refinement"]["minutes_per_million"].values()) for result in same or alike.values()]
    if not planned or not paces:
        return ""
    hours = int(planned[-1]) / 1e6 * statistics.fmean(paces) / 60
    where = "" if same else ", of other tasks"
    return f"about {hours:.1f} h a seed at {statistics.fmean(paces):.0f} minutes a million steps{where}"


def _refined(section: Section) -> list[list[Cell]]:
    return [cells for cells in grouped(section) if cells[0].method]


def curves(section: Section, results: Results, what: Measure) -> dict[str, dict[str, list[Curve]]]:
    """Success or return against steps, for each task, each method and each seed."""
    found: dict[str, dict[str, list[Curve]]] = {}
    for cell in itertools.chain.from_iterable(_refined(section)):
        if cell in results:
            record, settings = results[cell]["refinement"], results[cell]["config"].get("method", {})
            curve = record["curve"]
            base = (
                None if cell.method in ELSEWHERE else f"base: {cell.base.label}, {cell.base.demonstrations}"
            )
            made = Curve(
                curve["steps"], curve[what], record.get("warmup_steps", settings.get("warmup", 0)), base
            )
            found.setdefault(cell.task, {}).setdefault(cell.method_label, []).append(made)
    return found


def _milestones(steps: Mapping[str, float | None]) -> str:
    """Environment steps to each of them."""
    if all(count is None for count in steps.values()):
        return "none reached"
    return "/".join(map(_steps, steps.values()))


def _steps(count: float | None) -> str:
    """Environment steps in thousands."""
    return "not reached" if count is None else f"{count / 1000:.0f}k"
