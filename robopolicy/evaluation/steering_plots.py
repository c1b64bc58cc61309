"""Pictures of the steering studies, drawn from their result files.

python -m robopolicy.evaluation.steering_plots results/checks/itps_avoidance.json docs/itps_avoidance.png
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from robopolicy.evaluation.plots import BLUE, GREEN, GREY, ORANGE, STYLE

__all__ = ["COLOURS", "MARKERS", "compositions", "frontier"]

MARKERS = "osD^vPX*<>hp"
COLOURS = (GREY, BLUE, ORANGE, GREEN, "#8e5bb0", "#b03a48", "#5f7d95", "#c2a83e", "#1f9e9e", "#444444")


def frontier(found: Mapping[str, Any], path: str | Path) -> None:
    """Validity against the distance of plans to sketches: a line for each strategy."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in found["rows"]:
        lines.setdefault(row["label"], []).append(row)
    with _canvas(path, 2) as axes:
        for axis, kind in zip(axes, ("feasible", "infeasible"), strict=True):
            for number, (label, rows) in enumerate(lines.items()):
                axis.plot(
                    [100 * row[kind]["planned"] for row in rows],
                    [row[kind]["valid"]["value"] for row in rows],
                    marker=MARKERS[number % len(MARKERS)], color=COLOURS[number % len(COLOURS)],
                    linewidth=1, markersize=5, label=label,
                )  # fmt: skip
            axis.set(
                title=f"{kind} sketches", xlabel="plans to sketch, cm", ylabel="valid", ylim=(-0.03, 1.03)
            )
            axis.set_xlim(left=0)
        axes[1].legend(fontsize=7)


def compositions(found: Mapping[str, Any], path: str | Path) -> None:
    """Success of every policy with its interval, from the top of the table down."""
    rows = found["rows"][::-1]
    rates = [row["success"] for row in rows]
    errors = [
        [rate["value"] - rate["low"] for rate in rates],
        [rate["high"] - rate["value"] for rate in rates],
    ]
    with _canvas(path, 1) as (axis,):
        colours = [GREEN if " and " in row["label"] else BLUE for row in rows]
        axis.barh(
            [row["label"] for row in rows], [rate["value"] for rate in rates], xerr=errors, color=colours
        )
        axis.set(xlabel="success", xlim=(0, 1))
        axis.tick_params(axis="y", labelsize=7)


@contextmanager
def _canvas(path: str | Path, columns: int) -> Iterator[list[Axes]]:
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, columns, figsize=(6.0 * columns, 5.2), squeeze=False, layout="constrained"
        )
        yield list(axes[0])
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
        plt.close(figure)


if __name__ == "__main__":
    result = json.loads(Path(sys.argv[1]).read_text())
    (frontier if "unit" in result else compositions)(result, sys.argv[2])
