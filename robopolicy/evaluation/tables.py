"""The results page: Markdown from result files, and nothing that is not in one."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from robopolicy.evaluation.cells import (
    NOT_RUN,
    Results,
    count_cell,
    grouped,
    interval_cell,
    interval_of,
    partial_note,
)
from robopolicy.evaluation.check_tables import check_sections
from robopolicy.evaluation.machine import describe
from robopolicy.evaluation.markdown import markdown
from robopolicy.evaluation.pipeline import markdown as pipeline_table
from robopolicy.evaluation.plots import pipeline_stages, refinement_curves, success_by_demonstrations
from robopolicy.evaluation.refinement_tables import CURVES, curves, refinement_table, returns_table
from robopolicy.evaluation.results import CHECKS, PIPELINES, Cell, Plan, Section, successes
from robopolicy.evaluation.statistics import Interval, paired_difference

__all__ = ["HEAD", "TABLES", "write_page"]


HEAD = """\
# {title}

Written by `scripts/results.py` from the files under `results/`; not edited by hand.

Success means success at any step of an episode; "at the end" is the stricter definition, at the episode's
last step. {seeds}
The interval of a method is a 95% bootstrap over its training seeds and over episodes, never narrower than
Wilson's; with one training seed it says nothing about other seeds. Cells without a file read "not run".
"""


def write_page(plan: Plan, results: Results, path: str | Path, root: str | Path | None = None) -> None:
    """Write the page, with pictures beside it for sections against demonstrations.

    Args:
        root: the results directory, whose pipelines and further measurements have their tables too.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [HEAD.format(title=plan.title, seeds=plan.seeds)]
    for section in plan.sections:
        parts.append(f"## {section.title}\n")
        if section.note:
            parts.append(f"{section.note.strip()}\n")
        parts.append(TABLES[section.table](section, results))
        if what := CURVES.get(section.table):
            picture = path.with_name(f"{_slug(section.title)}.png")
            if drawn := curves(section, results, what):
                refinement_curves(drawn, picture, what)
                parts.append(f"![{section.title}]({picture.name})\n")
        if section.table == "demonstrations" and (points := _points(section, results)):
            picture = path.with_name(f"{_slug(section.title)}.png")
            success_by_demonstrations(points, picture)
            parts.append(f"![{section.title}]({picture.name})\n")
    if root is not None:
        parts += [_pipeline(file, path.parent) for file in sorted(Path(root, PIPELINES).glob("*.json"))]
        parts.append(check_sections(Path(root, CHECKS)))
    planned = plan.cells()
    done = [cell for cell in planned if cell in results]
    parts.append(f"## Files\n\n{len(done)} of {len(planned)} planned cells are run.\n")
    if done:
        parts.append(_files(done, results))
    path.write_text("\n".join(parts))


def _success(section: Section, results: Results) -> str:
    groups = list(grouped(section))
    seeds = sorted({cell.seed for cells in groups for cell in cells})
    columns = [f"Seed {seed}" for seed in seeds]
    head = ["Task", "Policy", "Demonstrations", *columns, "All seeds [95%]", "At the end"]
    lines = []
    for cells in groups:
        by_seed = {cell.seed: cell for cell in cells}
        rates = [count_cell(by_seed[s], results) if s in by_seed else "" for s in seeds]
        partial = partial_note([cell for cell in cells if cell in results], cells)
        overall = [interval_cell(interval_of(cells, results, d)) for d in ("success", "success_final")]
        first = cells[0]
        name = f"{first.label}, {first.evaluation}" if first.evaluation else first.label
        lines.append([first.task, name, str(first.demonstrations), *rates, overall[0] + partial, overall[1]])
    return markdown(head, lines)


def _comparison(section: Section, results: Results) -> str:
    """Policies side by side: success, the share of the possible routes they use, what they cost."""
    head = ["Task", "Policy", "Seeds", "All seeds [95%]", "Entropy of routes (expert)", "Routes"]
    head += ["Network calls", "ms a chunk", "Training", "Parameters"]
    lines = []
    for cells in grouped(section):
        first, run = cells[0], [results[cell] for cell in cells if cell in results]
        line = [first.task, f"{first.label}, {first.evaluation}" if first.evaluation else first.label]
        line.append(", ".join(count_cell(cell, results) for cell in cells))
        line.append(interval_cell(interval_of(cells, results)))
        covered = [result["coverage"] for result in run if "coverage" in result]
        line += (
            [
                f"{_mean(covered, 'entropy'):.2f} ({_mean(covered, 'expert_entropy'):.2f})",
                f"{_span([found['routes_found'] for found in covered])} of {covered[0]['possible']}",
            ]
            if covered
            else ["", ""]
        )
        costs = [result["sampling"] for result in run if "sampling" in result]
        line += [_calls(costs), f"{statistics.median(c['ms'] for c in costs):.1f}"] if costs else ["", ""]
        trained = [r["wall_seconds"]["train"] for r in run if "train" in r["wall_seconds"]]
        line.append(f"{statistics.median(trained) / 60:.0f} min" if trained else "")
        line.append(f"{costs[0]['parameters'] / 1e6:.2f} M" if costs else "")
        lines.append(line)
    return markdown(head, lines)


def _span(counts: Sequence[int]) -> str:
    """Of the training seeds, from the fewest to the most."""
    return str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _calls(costs: Sequence[Mapping[str, float]]) -> str:
    """Of a chunk; where chunks end by themselves, what they took in the episodes, on average and at most."""
    if own := [cost for cost in costs if "mean_calls" in cost]:
        return f"{_mean(own, 'mean_calls'):.1f}, at most {max(cost['most_calls'] for cost in own):.0f}"
    return f"{_mean(costs, 'calls'):.0f}"


def _conditions(section: Section, results: Results) -> str:
    """A column for each evaluation, each with the difference from the first policy in the same episodes."""
    groups = list(grouped(section))
    names = list(dict.fromkeys(cells[0].evaluation for cells in groups))
    lines: dict[tuple[str, int, str], dict[str, list[Cell]]] = {}
    for cells in groups:
        key = (cells[0].task, cells[0].demonstrations, cells[0].label)
        lines.setdefault(key, {})[cells[0].evaluation] = cells
    table = []
    for (task, count, label), by_name in lines.items():
        first = next(other for other in lines if other[:2] == (task, count))
        run = [results[cell] for cells in by_name.values() for cell in cells if cell in results]
        costs = [result["sampling"] for result in run if "sampling" in result]
        line = [task, str(count), label, f"{costs[0]['parameters'] / 1e6:.2f} M" if costs else ""]
        for name in names:
            mine, theirs = by_name.get(name, []), lines[first].get(name, [])
            line.append(_beside(mine, [] if by_name is lines[first] else theirs, results))
        table.append(line)
    head = ["Task", "Demonstrations", "Policy", "Parameters", *(name or "nominal" for name in names)]
    return markdown(head, table)


def _beside(cells: Sequence[Cell], reference: Sequence[Cell], results: Results) -> str:
    """Success in percent and, in brackets, the difference from a reference in points."""
    mine, theirs = ([successes(results[c]) for c in group if c in results] for group in (cells, reference))
    if not mine:
        return NOT_RUN if cells else ""
    rate = 100 * statistics.fmean(itertools.chain.from_iterable(mine))
    text = f"{rate:.0f}{partial_note([c for c in cells if c in results], cells)}"
    if not theirs:
        return text
    gap = paired_difference(mine, theirs).interval
    return f"{text} ({100 * gap.value:+.0f} [{100 * gap.low:+.0f}, {100 * gap.high:+.0f}])"


def _mean(rows: Sequence[Mapping[str, float]], key: str) -> float:
    return statistics.fmean(row[key] for row in rows)


def _curve(section: Section, results: Results) -> str:
    groups = list(grouped(section))
    counts = sorted({cells[0].demonstrations for cells in groups})
    lines: dict[tuple[str, str], dict[int, str]] = {}
    for cells in groups:
        run = sum(cell in results for cell in cells)
        text = interval_cell(interval_of(cells, results)) + (f" ({run} of {len(cells)} seeds)" if run else "")
        lines.setdefault((cells[0].task, cells[0].label), {})[cells[0].demonstrations] = text
    rows = [[*key, *(line.get(count, "") for count in counts)] for key, line in lines.items()]
    return markdown(["Task", "Policy", *(f"{count} demonstrations" for count in counts)], rows)


def _points(section: Section, results: Results) -> dict[str, list[tuple[int, Interval]]]:
    curves: dict[str, list[tuple[int, Interval]]] = {}
    for cells in grouped(section):
        interval = interval_of(cells, results)
        if interval is not None:
            name = f"{cells[0].task}, {cells[0].label}"
            curves.setdefault(name, []).append((cells[0].demonstrations, interval))
    return curves


def _files(cells: Sequence[Cell], results: Results) -> str:
    lines = []
    for cell in cells:
        result = results[cell]
        seconds = result["wall_seconds"]
        lines.append(
            [
                f"`{cell.file}`",
                f"{result['commit'][:7]}{' + changes' if result['dirty'] else ''}",
                result["date"][:10],
                f"{seconds['train']:.0f} s" if "train" in seconds else "",
                f"{result['evaluation']['seconds_per_episode']:.2f} s",
                describe(result["machine"]),
            ]
        )
    return markdown(["File", "Commit", "Date", "Training", "Evaluation, an episode", "Machine"], lines)


def _pipeline(file: Path, beside: Path) -> str:
    values = json.loads(file.read_text())
    title = f"One checkpoint through everything: {values['task']}"
    picture = beside / f"{_slug(title)}.png"
    pipeline_stages(values["stages"], picture)
    made = f"{values['commit'][:7]}{' + changes' if values['dirty'] else ''}, {values['date'][:10]}"
    return (
        f"## {title}\n\n{pipeline_table(values['stages'])}\n\n![{title}]({picture.name})\n\n"
        f"Differences in points, paired on the same report episodes [95%]. From "
        f"`{PIPELINES}/{file.name}` ({made}).\n"
    )


def _slug(title: str) -> str:
    return "_".join("".join(c if c.isalnum() else " " for c in title.lower()).split())


TABLES = {
    "success": _success,
    "comparison": _comparison,
    "conditions": _conditions,
    "demonstrations": _curve,
    "refinement": refinement_table,
    "returns": returns_table,
}
