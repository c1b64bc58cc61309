"""Tables of what `evaluation.value_study` found."""

from __future__ import annotations

import json
import statistics

from robopolicy.evaluation.markdown import Files, Values, interval, markdown, points, success

__all__ = ["value_tables"]


def value_tables(files: Files) -> str:
    """What is alike in several studies, then each of them."""
    return "\n".join(table for table in (_over_critics(files), _each_study(files)) if table)


def _over_critics(files: Files) -> str:
    """Policies that were steered by several critics which differ in their training seed alone."""
    groups: dict[str, dict[str, Values]] = {}
    for name, values in files.items():
        config = values.get("config", {})
        if config.get("block") == "report" and "steered" in values:
            alike = [values["task"], values["value"], values.get("learned", {}).get("corrupt") or 0.0]
            alike += [config[key] for key in ("checkpoint", "candidates", "beta")]
            groups.setdefault(json.dumps(alike), {})[name] = values
    lines = []
    for group in groups.values():
        first, *others = group.values()
        ways = [way for way in first["steered"] if all(way in other["ledgers"] for other in group.values())]
        for way in ways if others else ():
            rows = [values["steered"][way] for values in group.values()]
            spread = statistics.fmean(values["ledgers"][way]["spread"] for values in group.values())
            lines.append(
                [
                    ", ".join(name.removeprefix("values_") for name in group) if way == ways[0] else "",
                    f"{spread:.3f}",
                    way,
                    ", ".join(f"{100 * row['success']['value']:.0f}" for row in rows),
                    f"{100 * statistics.fmean(row['difference']['interval']['value'] for row in rows):+.1f}",
                    ", ".join(row["difference"]["verdict"] for row in rows),
                ]
            )
    head = [
        "Task, policy and critics",
        "Spread of candidates",
        "Choosing",
        "Success, %",
        "Mean gain, points",
        "Verdicts",
    ]
    return markdown(head, lines) if lines else ""


def _each_study(files: Files) -> str:
    """Success of each way to choose, and whether values rank the candidates of one state as returns do."""
    lines = []
    for name, values in files.items():
        ranks, costs = values.get("ranks") or {}, values.get("cost", {})
        for number, (way, row) in enumerate((values.get("steered") or {"-": {}}).items()):
            heading = [name.removeprefix("values_"), *_ranks(ranks)] if number == 0 else [""] * 3
            gain = points(row["difference"]["interval"]) if number else ""
            cells = [way, success(row["success"]) if row else "-", gain]
            if way in costs:
                drawn = 1 if way in ("policy", "gradient") else values["config"]["candidates"]
                cells += [f"{costs[way]['calls']:g} x {drawn}", f"{costs[way]['ms']:.1f}"]
            lines.append([*heading, *cells, *[""] * (5 - len(cells))])
    head = ["Task, policy and critic", "Rank correlation within states [95%]",
            "One chunk tried out earns: any / the best by value / the best", "Choosing", "Success [95%]",
            "Against the policy, points [95%]", "Network calls a chunk", "ms a chunk"]  # fmt: skip
    return markdown(head, lines)


def _ranks(ranks: Values) -> list[str]:
    """Correlation, and what a chunk earns that is taken at random, by its value, and by trying all out."""
    if not ranks:
        return ["-", "-"]
    correlation = ranks["rank within states"]
    best = "oracle, held out" if "oracle, held out" in ranks else "oracle"
    earned = [f"{ranks[name]['value']:.3f}" for name in ("random", "greedy", best) if name in ranks]
    return ["-" if correlation is None else interval(correlation), " / ".join(earned)]
