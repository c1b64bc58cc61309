"""What recorded episodes alone brought: the table of pipelines of ``stages=recorded``."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from robopolicy.evaluation.statistics import paired_difference

__all__ = ["BASE", "HEADS", "NOBODY", "OURS", "recorded_rows"]

BASE, OURS = "cloned", "imagined"
NOBODY = "Report episodes that none of them solves"
HEADS = {
    "cloned": "Cloned demonstrations",
    "successes": "Cloned successes",
    "values": "Implicit Q-learning",
    "still": "The clone drawing close to its mean, as after practice",
    "imagined": "Practice in imagination",
}


def recorded_rows(files: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and lines, a line for each task, policy and number of demonstrations, over its training seeds.

    Every stage has played the same report episodes, so that differences are paired.

    Args:
        files: what ``scripts/pipeline.py`` wrote.
    """
    stages = [row["stage"] for row in max(files, key=lambda values: len(values["stages"]))["stages"]]
    others = [stage for stage in stages if stage not in (BASE, OURS)]
    head = ["Task", "Policy", "Demonstrations", "Recorded episodes", "Of imagined ones begin anywhere"]
    head += [HEADS.get(name, name) for name in (BASE, *others, OURS)]
    head += ["Gain of practice over the clone [95%]", "Over the better of the others [95%]", NOBODY]

    def kind(values: Mapping[str, Any]) -> tuple[str, str, int, float]:
        given = values["values"]
        return values["task"], given["policy"], given["demonstrations"], given.get("anywhere", 0.0)

    lines = []
    for (task, policy, demonstrations, anywhere), group in itertools.groupby(sorted(files, key=kind), kind):
        runs = list(group)
        solved = {stage: [found for values in runs if (found := _solved(values, stage))] for stage in stages}
        rival = max(others, key=lambda stage: _rate(solved[stage]))
        recorded = sum(row["recorded_episodes"] for row in runs[0]["stages"])
        line = [task, policy, str(demonstrations), str(recorded), f"{anywhere:.0%}"]
        line.append(_counts(solved[BASE][:1]))
        line += [_counts(solved[stage]) for stage in (*others, OURS)]
        if solved[OURS]:
            line.append(str(paired_difference(solved[OURS], solved[BASE][:1])))
            line.append(f"{rival}: {paired_difference(solved[OURS], solved[rival])}")
        else:
            line += ["", ""]
        every = [run for stage in stages for run in solved[stage]]
        line.append(str(sum(not any(episode) for episode in zip(*every, strict=True))))
        lines.append(line)
    return head, lines


def _solved(values: Mapping[str, Any], stage: str) -> list[bool]:
    """Of each report episode, in the order of their seeds; empty where that stage is not run yet."""
    solved: Mapping[str, bool] = next((r["solved"] for r in values["stages"] if r["stage"] == stage), {})
    return [bool(solved[seed]) for seed in sorted(solved, key=int)]


def _rate(runs: Sequence[Sequence[bool]]) -> float:
    """Mean over runs, of which a stage may have fewer than another; 0 where there is none."""
    return sum(map(sum, runs)) / max(1, sum(map(len, runs)))


def _counts(runs: Sequence[Sequence[bool]]) -> str:
    return ", ".join(f"{sum(run)}/{len(run)}" for run in runs) or "not run"
