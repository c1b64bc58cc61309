"""The benchmark page: Markdown from measurement files, and nothing that is not in one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from robopolicy.evaluation.machine import describe

__all__ = ["HEAD", "SECTIONS", "write_page"]

HEAD = """\
# Benchmark

Written by `scripts/benchmark.py` from `results/benchmark/`; not edited by hand. Alternatives in a table took
turns, so that a busy moment of the machine hit all of them. "Best" is the fastest call or round, what the
machine can do; the median is what it did.
"""


def write_page(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the page from the contents of measurement files."""
    parts = [HEAD]
    for result in results:
        for name, (title, table) in SECTIONS.items():
            if name in result:
                parts += [f"## {title}\n", table(result[name]["rows"]), _origin(result[name])]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts))


def _training(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ["Network", "Parameters", "Precision", "Samples/s, best", "Median", "Data", "Forward, backward"]
    lines = [
        [
            row["network"],
            f"{row['parameters'] / 1e6:.1f} M",
            row["precision"],
            _number(row["samples_per_s"]["max"]),
            _number(row["samples_per_s"]["median"]),
            *(f"{row['share'][name]:.1%}" for name in ("data", "forward_backward", "optimizer")),
        ]
        for row in rows
    ]
    return _table([*head, "Optimiser, average"], lines)


def _sampling(rows: Sequence[Mapping[str, Any]]) -> str:
    batches = sorted({row["batch"] for row in rows})
    found = {(row["network"], row["solver"], row["steps"], row["batch"]): row for row in rows}
    head = ["Network", "Solver", "p50, batch 1", "p99, batch 1"]
    head += [f"Chunks/s, batch {batch}" for batch in batches if batch > 1]
    lines = []
    for network, solver, steps in dict.fromkeys(key[:3] for key in found):
        single = found[network, solver, steps, 1]["ms"]
        larger = [found.get((network, solver, steps, b)) for b in batches if b > 1]
        others = ["-" if row is None else _number(row["chunks_per_s"]) for row in larger]
        times = [f"{single['p50']:.1f} ms", f"{single['p99']:.1f} ms"]
        lines.append([network, f"{solver}, {steps} steps", *times, *others])
    return _table(head, lines)


def _families(rows: Sequence[Mapping[str, Any]]) -> str:
    found = {(row["policy"], row["batch"]): row for row in rows}
    batches = sorted({row["batch"] for row in rows})
    head = ["Policy", "Parameters", "Network calls a chunk"]
    for batch in batches:
        head += [f"p50, batch {batch}", "p99"]
    head.append("A training step of 256")
    lines = []
    for name in dict.fromkeys(row["policy"] for row in rows):
        of = [found[name, batch] for batch in batches]
        line = [name, f"{of[0]['parameters'] / 1e6:.1f} M", str(of[0]["calls"])]
        for row in of:
            line += [f"{row['ms']['p50']:.1f} ms", f"{row['ms']['p99']:.1f} ms"]
        line.append(f"{of[0]['step_ms']['p50']:.0f} ms")
        lines.append(line)
    return _table(head, lines)


def _environments(rows: Sequence[Mapping[str, Any]]) -> str:
    stepped = [row for row in rows if "actor" in row]
    head = ["Task", "Actions", "Workers", "Steps/s, best", "Median", "Reset"]
    lines = [
        [row["task"], row["actor"], str(row["workers"]), _number(row["steps_per_s"]["max"]),
         _number(row["steps_per_s"]["median"]), f"{row['reset_ms']:.0f} ms"]
        for row in stepped
    ]  # fmt: skip
    return _table(head, lines)


def _robosuite(rows: Sequence[Mapping[str, Any]]) -> str:
    ours = {"end": "Times as fast, `observe: end`", "stock": "Times as fast, `observe: stock`"}
    lines = [
        [row["task"], row["actions"], f"{row['episodes']} ({row['steps']:,})",
         *(f"{row['ms'][way]:.2f} ms" for way in ("robosuite", *ours, "physics")),
         *(_interval(row["ratio"][way]) for way in (*ours, "physics"))]
        for row in rows
    ]  # fmt: skip
    head = ["Task", "Actions", "Episodes (steps)", "robosuite", "`observe: end`", "`observe: stock`"]
    head += ["Physics as robosuite has it", *ours.values(), "Physics as robosuite has it"]
    text = (
        "Processor time of a control step in one process, without its expert. All took the same recorded "
        "actions from the same resets, ten steps in turn, and stood in the same state after each turn "
        f"(largest difference of positions and velocities: {max(_differences(rows)):g}). Physics alone took "
        "them with the torques recorded there, as robosuite has it, sensors and all. Ratios are of the sums, "
        "with 95% bootstrap intervals over episodes.\n\n" + _table(head, lines)
    )
    savings = [way for way in rows[0]["ms"] if way.startswith("without ")]
    longer = [
        [row["task"], *(f"{100 * (row['ms'][way] / row['ms']['end'] - 1):+.0f}%" for way in savings)]
        for row in rows
    ]
    return text + (
        "\nHow much longer a step (`observe: end`) takes without what it saves beside Python: LAPACK's "
        "routines for the controller's matrices called directly, in kept memory; sensors off in all physics "
        "steps but the last; no marks of the bounding volumes that collision looked at, which are only ever "
        "drawn. None changes a bit of the state.\n\n" + _table(["Task", *savings], longer) + _KEPT_AND_NOT
    )


_KEPT_AND_NOT = """
What is left is physics and the singular values of three matrices at every physics step, whose last bits
decide on which points a resting object stands: plain inverses are faster and not equal
(see [results](results.md)). Tried and not kept: to simulate objects that a task has put out of the way, on
the floor 14 m off, only when somebody looks. What touches nothing else is solved by itself, but MuJoCo
decides by one sum over everything whether its solver starts from the last step's acceleration, and states
differed by more than 1e-9 within ten steps. Contacts between parts of the arm are looked for as robosuite
does, though they hardly ever happen.
"""


def _differences(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    return [value for row in rows for value in row["largest_difference"].values()]


def _windows(rows: Sequence[Mapping[str, Any]]) -> str:
    slowest = min(row["windows_per_s"] for row in rows)
    lines = [
        [row["how"], f"{row['ms']['p50']:.2f} ms", _number(row["windows_per_s"]),
         f"{row['windows_per_s'] / slowest:.1f}"]
        for row in rows
    ]  # fmt: skip
    return _table(["Batch of windows", "Median", "Windows/s", "Ratio"], lines)


def _evaluation(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ["Policy", "Task", "Lanes", "Workers", "Seconds/100 episodes", "Steps/s", "Start"]
    lines = [
        [row["policy"], row["task"], str(row["lanes"]), str(row["workers"]), f"{row['seconds_per_100']:.1f}",
         _number(row["steps_per_s"]), f"{row['startup_s']:.1f} s"]
        for row in rows
    ]  # fmt: skip
    return _table(head, lines)


def _refinement(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ["Network", "Parameters", "Pairs", "Batch", "One epoch", "Straightforward", "Ratio"]
    head += ["Straightforward with our activation and products", "Ratio"]
    head += ["Tuned network alone", "Critic alone", "Largest such ratio possible"]
    lines = []
    for row in rows:
        ours, plain, same, network, critic = (
            row[f"{name}_ms"]["p50"] for name in ("ours", "plain", "straightforward", "network", "critic")
        )
        line = [
            row["network"],
            f"{row['parameters'] / 1e6:.2f} M",
            _number(row["pairs"]),
            _number(row["batch"]),
        ]
        line += [f"{ours:.0f} ms", f"{plain:.0f} ms", f"{row['plain_ratio']:.1f}", f"{same:.0f} ms"]
        line += [
            f"{row['ratio']:.1f}",
            f"{network:.0f} ms",
            f"{critic:.0f} ms",
            f"{same / (network + critic):.1f}",
        ]
        lines.append(line)
    return (
        _table(head, lines)
        + "\nStraightforward: both networks on every row, tables element by element, the value loss for "
        "every pair, old log-probabilities computed again; once with torch's own Mish and its default "
        "products of matrices, once with what this repository has instead of them. No form can do without "
        "the tuned network's passes forward and backward over every pair and the critic's over every chunk, "
        "which bounds the second ratio. Medians.\n"
    )


def _serving(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ["Policy", "Asked", "Best", "Median", "p99", "Chunks/s", "Overhead, best", "Median"]
    head.append("Outside inference")
    lines = []
    for row in rows:
        asked = {0: "in this process", 1: "by 1 client"}.get(row["clients"], f"by {row['clients']} clients")
        times = [f"{row['ms'][name]:.2f} ms" for name in ("min", "p50", "p99")]
        overhead = [f"{value:.2f} ms" for value in row.get("overhead_ms", {}).values()] or ["-", "-"]
        outside = f"{row['outside_ms']['p50']:.2f} ms" if "outside_ms" in row else "-"
        lines.append([row["policy"], asked, *times, _number(row["chunks_per_s"]), *overhead, outside])
    return (
        _table(head, lines)
        + "\nOne observation and one chunk a request, over loopback. Overhead: what a client waits longer "
        "than for the same call in this process; its median is that of rounds. Part of it is inference, "
        "longer in a process that has just been woken; the last column is the median of all else.\n"
    )


SECTIONS: dict[str, tuple[str, Callable[[Sequence[Mapping[str, Any]]], str]]] = {
    "training": ("Training", _training),
    "sampling": ("Sampling", _sampling),
    "families": ("Policies", _families),
    "environments": ("Environments", _environments),
    "robosuite": ("Beside robosuite's own step", _robosuite),
    "windows": ("Windows", _windows),
    "evaluation": ("Evaluation", _evaluation),
    "refinement": ("DPPO's update", _refinement),
    "serving": ("Serving", _serving),
}


def _origin(part: Mapping[str, Any]) -> str:
    config = part["config"]
    dirty = " with changes" if part["dirty"] else ""
    return (
        f"\n{describe(part['machine'])}; {config['threads']} torch thread(s) on {config['device']}, torch "
        f"{part['versions'].get('torch', '?')}; load {part['load_average'][0]:.1f} before, took "
        f"{part['wall_seconds']:.0f} s; commit {part['commit']}{dirty}, {part['date'][:10]}.\n"
    )


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _interval(found: Mapping[str, float]) -> str:
    return f"{found['value']:.1f} [{found['low']:.1f}, {found['high']:.1f}]"


def _number(value: float) -> str:
    """Three digits, thousands apart."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"
