"""Pictures of training and success, drawn without a display."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator, StrMethodFormatter

from robopolicy.evaluation.statistics import Interval

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "STYLE",
    "Curve",
    "Measure",
    "error_by_dimension",
    "pipeline_stages",
    "read_series",
    "refinement_curve",
    "refinement_curves",
    "success_by_demonstrations",
    "training_curve",
]

BLUE, ORANGE, GREEN, GREY = "#2f6fb3", "#d9822b", "#2e8b57", "#8a94a0"
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "grid.color": "#e6e9ed",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "robopolicy",
}


def training_curve(
    metrics: str | Path, path: str | Path, *, final: tuple[str, int, Interval] | None = None
) -> None:
    """Losses, and success with its interval where it was measured, from a run's ``metrics.csv``.

    Args:
        final: (name, step, success rate) of an evaluation.
    """
    series = read_series(metrics)
    evaluated = "success" in series or final is not None
    with _figure(path, 2 if evaluated else 1) as axes:
        if "loss" in series:
            axes[0].plot(*series["loss"], color=BLUE, linewidth=1.2, label="training")
        for name in () if "loss" in series else sorted(key for key in series if key.endswith("_loss")):
            axes[0].plot(*series[name], linewidth=1.2, label=name.removesuffix("_loss"))  # of values: several
        if "validation_loss" in series:
            axes[0].plot(*series["validation_loss"], color=ORANGE, linewidth=1.6, label="held out")
        least = min(float(np.min(line.get_ydata())) for line in axes[0].get_lines())
        axes[0].set(yscale="log" if least > 0 else "linear", ylabel="loss", xlabel="step")
        if least > 0:
            axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes[0].yaxis.set_minor_locator(NullLocator())
        axes[0].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes[0].legend()
        if not evaluated:
            return
        if "success" in series:
            steps, rates = series["success"]
            axes[1].plot(steps, rates, "o-", color=GREEN, markersize=4, label="selection seeds")
            if "success_low" in series:
                low, high = series["success_low"][1], series["success_high"][1]
                axes[1].fill_between(steps, low, high, color=GREEN, alpha=0.18, linewidth=0)
        if final is not None:
            _point(axes[1], final[1], final[2], BLUE, final[0])
        axes[1].set(ylabel="success rate", xlabel="step", ylim=(-0.02, 1.04))
        axes[1].legend(loc="lower right")


def refinement_curve(
    metrics: str | Path,
    path: str | Path,
    *,
    final: tuple[str, int, Interval] | None = None,
    base: bool = True,
) -> None:
    """Success on selection seeds against environment steps; the base as a line, the warm-up shaded.

    Args:
        base: whether the first evaluation is of a base, and not of what has learned nothing yet.
        final: (name, step, success rate) of an evaluation.
    """
    series = read_series(metrics)
    steps, rates = series["success"]
    with _figure(path, 1) as (axis,):
        warm = [step for step, value in zip(*series.get("warmup", ([], [])), strict=True) if value > 0]
        if warm:
            axis.axvspan(0, max(warm), color=GREY, alpha=0.18, linewidth=0, label="warm-up")
        if base:
            axis.axhline(rates[0], color=GREY, linestyle="--", linewidth=1, label="base")
        axis.plot(steps, rates, "o-", color=GREEN, markersize=4, label="selection seeds")
        axis.fill_between(
            steps, series["success_low"][1], series["success_high"][1], color=GREEN, alpha=0.18, linewidth=0
        )
        if "practice_success" in series:
            axis.plot(*series["practice_success"], color=BLUE, linewidth=1, alpha=0.6, label="practice")
        if final is not None:
            _point(axis, final[1], final[2], BLUE, final[0])
        axis.set(ylabel="success rate", xlabel="environment steps", ylim=(-0.02, 1.04))
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.legend(loc="lower right")


class Curve(NamedTuple):
    """Success (or return) of a run of refinement."""

    steps: Sequence[float]
    """Of the environment."""
    values: Sequence[float]
    warmup: float = 0.0
    """Step until which nothing was learned."""
    base: str | None = None
    """What it begins at, if that is what is refined."""


Measure = Literal["success", "return"]


def refinement_curves(
    curves: Mapping[str, Mapping[str, Sequence[Curve]]], path: str | Path, what: Measure = "success"
) -> None:
    """Success or return against environment steps: a panel a task, a colour a method, a line a seed.

    Dashed lines are bases, dots the ends of warm-ups.
    """
    colours = plt.colormaps["tab10"].colors  # type: ignore[attr-defined]
    looks = [(style, colour) for style in ("-", "--", ":") for colour in colours]
    with _figure(path, len(curves)) as axes:
        for axis, (task, methods) in zip(axes, curves.items(), strict=True):
            bases: dict[str, float] = {}
            for curve in itertools.chain.from_iterable(methods.values()):
                if curve.base is not None:
                    bases.setdefault(curve.base, curve.values[0])
            for look, (name, value) in zip(itertools.cycle(("--", ":")), bases.items(), strict=False):
                axis.axhline(value, color=GREY, linestyle=look, linewidth=1, label=name)
            for (style, colour), (name, seeds) in zip(itertools.cycle(looks), methods.items(), strict=False):
                for index, curve in enumerate(seeds):
                    label = None if index else name
                    axis.plot(curve.steps, curve.values, style, color=colour, linewidth=1.2, label=label)
                    if curve.warmup:
                        height = np.interp(curve.warmup, curve.steps, curve.values)
                        axis.plot(curve.warmup, height, ".", color=colour, markersize=5)
            axis.set(title=task, xlabel="environment steps")
            if what == "success":
                axis.set(ylim=(-0.02, 1.04))
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
            axis.legend(loc="upper left", bbox_to_anchor=(0.0, -0.28), ncols=2)
        axes[0].set(ylabel=f"{'success rate' if what == 'success' else 'mean return'},\nselection seeds")


def success_by_demonstrations(curves: Mapping[str, Sequence[tuple[int, Interval]]], path: str | Path) -> None:
    """Success rate against the number of demonstrations, one line for each name."""
    counts = sorted({count for points in curves.values() for count, _ in points})
    with _figure(path, 1) as (axis,):
        colours = plt.colormaps["tab10"].colors  # type: ignore[attr-defined]
        for colour, (name, points) in zip(itertools.cycle(colours), curves.items(), strict=False):
            ordered = sorted(points, key=lambda point: point[0])
            axis.plot([c for c, _ in ordered], [i.value for _, i in ordered], color=colour, label=name)
            for count, interval in ordered:
                _point(axis, count, interval, colour, None)
        axis.set(xscale="log", ylabel="success rate", xlabel="demonstrations", ylim=(-0.02, 1.04))
        axis.set_xticks(counts, [str(count) for count in counts])
        axis.minorticks_off()
        axis.legend(loc="lower right")


def pipeline_stages(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Success after each stage of a pipeline, on the same episodes; below, what the stage has cost.

    Args:
        rows: of the pipeline's table.
    """
    names = [row["stage"] for row in rows]
    with _figure(path, 1, heights=(1.0, 0.5, 0.5)) as (success, steps, episodes):
        rates = [Interval(**row["success"]) for row in rows]
        success.plot([rate.value for rate in rates], color=GREY, linewidth=1)
        for place, rate in enumerate(rates):
            _point(success, place, rate, BLUE, None)
            success.annotate(
                f"{rate.value:.0%}", (place, rate.value), (7, 5), textcoords="offset points", color=BLUE
            )
        success.set(ylabel=f"success of {rows[0]['episodes']}", ylim=(-0.02, 1.04))
        for imagined, colour, label in ((False, ORANGE, "in the simulator"), (True, GREY, "imagined")):
            counts = [row["practised_steps"] / 1000 * (row["imagined"] == imagined) for row in rows]
            steps.bar(names, counts, width=0.5, color=colour, label=label)
        steps.set(ylabel="practised steps\n(thousands)")
        steps.legend()
        episodes.bar(names, [row["recorded_episodes"] for row in rows], width=0.5, color=GREEN)
        episodes.set(ylabel="recorded\nepisodes", xlim=(-0.5, len(rows) - 0.5))
        for axis in (success, steps, episodes):
            axis.grid(visible=False, axis="x")


def error_by_dimension(error: Mapping[str, Any], path: str | Path) -> None:
    """Offline error by action dimension and by step ahead, relative to the data's standard deviation."""
    with _figure(path, 2) as axes:
        values = [0.0 if value is None else value for value in error["relative"]]
        axes[0].bar(error["names"], values, color=BLUE)
        axes[0].set(ylabel="rmse / standard deviation")
        axes[0].tick_params(axis="x", rotation=45)
        axes[1].plot(error["steps"], error["relative_by_step"], "o-", color=BLUE)
        axes[1].set(xlabel="step ahead", ylim=(0, None))
        for axis in axes:
            axis.axhline(1.0, color=GREY, linestyle="--", linewidth=1)


def read_series(metrics: str | Path) -> dict[str, tuple[list[float], list[float]]]:
    """Columns of a ``metrics.csv`` as (steps, values), without the rows that leave them empty."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    with Path(metrics).open(newline="") as file:
        for row in csv.DictReader(file):
            for key, value in row.items():
                if key != "step" and value:
                    steps, values = series.setdefault(key, ([], []))
                    steps.append(float(row["step"]))
                    values.append(float(value))
    return series


def _point(axis: Axes, x: float, interval: Interval, colour: Any, label: str | None) -> None:
    below, above = interval.value - interval.low, interval.high - interval.value
    axis.errorbar(
        [x], [interval.value], yerr=[[below], [above]], fmt="o", color=colour, capsize=4, label=label
    )


@contextmanager
def _figure(path: str | Path, columns: int, heights: Sequence[float] = (1.0,)) -> Iterator[list[Axes]]:
    """Axes side by side, or below each other with these heights."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(heights), columns, figsize=(5.2 * columns, 3.4 * sum(heights)), squeeze=False,
            sharex="col", height_ratios=heights, layout="constrained",
        )  # fmt: skip
        try:
            yield list(axes.flat)
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=130, bbox_inches="tight")
        finally:
            plt.close(figure)
