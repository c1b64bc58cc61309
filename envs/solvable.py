"""Which starts of a Meta-World task can be solved at all.

``python -m envs.solvable <file.json> <pipeline.json> ...``

Where nothing that was learned solves an episode, learning failed or the start is out of reach. A steady
expert plays the same report episodes; where objects stood is written down, and how near its hand came.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from envs.metaworld_env import MetaworldEnv
from robopolicy.compose import compose
from robopolicy.env import make_env
from robopolicy.errors import ConfigError
from robopolicy.evaluation.machine import stamp
from robopolicy.task import Task

__all__ = ["STEADY", "main", "solvable"]

STEADY = {"noise": 0.0, "slowest": 1.0, "pauses": 0.0}


def solvable(task: Task, runs: Sequence[Mapping[str, bool]]) -> dict[str, Any]:
    """What runs solved, by seed, and what a steady expert solves from the same starts; JSON-ready.

    Raises:
        ConfigError: a task of another suite.
    """
    env = make_env(task)
    if not isinstance(env, MetaworldEnv):
        raise ConfigError(f"{task.name} is no task of Meta-World: where its hand can go is not known.")
    low, high = env.hand_range
    episodes = []
    for seed in sorted(map(int, runs[0])):
        observation, _ = env.reset(seed=seed)
        expert, place = env.expert(seed, STEADY), observation["object-state"][:3]
        nearest, solved = np.inf, False
        for _ in range(task.horizon):
            observation, *_, info = env.step(expert.act(observation))
            hand, there = observation["robot-state"][:3], observation["object-state"][:3]
            nearest = min(nearest, float(np.linalg.norm(hand - there)))
            if solved := bool(info["success"]):
                break
        episodes.append(
            {
                "seed": seed,
                "place": place.round(4).tolist(),
                "expert": solved,
                "learned": any(run[str(seed)] for run in runs),
                "nearest": round(nearest, 4),
            }
        )
    env.close()
    return {
        "task": task.name,
        "runs": len(runs),
        "hand": {"low": np.round(low, 3).tolist(), "high": np.round(high, 3).tolist()},
        "episodes": episodes,
        **stamp(),
    }


def main(arguments: list[str]) -> None:
    """Compare the runs of pipeline files, all of one task, and write.

    Raises:
        ConfigError: files of several tasks.
    """
    if len(arguments) < 2:
        raise SystemExit("usage: python -m envs.solvable <file.json> <pipeline.json> ...")
    out, *paths = map(Path, arguments)
    files = [json.loads(path.read_text()) for path in paths]
    if len(names := {values["task"] for values in files}) > 1:
        raise ConfigError(f"The pipelines must be of one task, got {', '.join(sorted(names))}.")
    runs = [row["solved"] for values in files for row in values["stages"] if row.get("solved")]
    found = solvable(Task.from_dict(compose("evaluate", [f"task={names.pop()}"])["task"]), runs)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
