"""How many of a task's routes an actor uses: many episodes from each of a few starts, and their entropy.

D3IL (Jia et al., ICLR 2024): over the successful episodes from one start, the entropy of the routes taken,
divided by the logarithm of the number of routes; its mean over the starts. The scripted expert is measured in
the same way, because few episodes cannot reach 1 (32 draws from 24 equal routes have some 0.88).
"""

from __future__ import annotations

import functools
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.env import RobotEnv, make_env
from robopolicy.errors import MissingCapability
from robopolicy.rollout import Actor, run_episodes
from robopolicy.seeding import derive
from robopolicy.task import Task
from robopolicy.vector import LaneVectorEnv

__all__ = ["STARTS", "Coverage", "Start", "coverage", "entropy"]

STARTS = 10


@dataclass(frozen=True, kw_only=True)
class Start:
    """Episodes from one start."""

    seed: int
    episodes: int
    successes: int
    routes: dict[str, int]
    """Successful episodes by route."""
    entropy: float
    """Of the routes, over its largest value: 0 is one route, 1 all equally often."""


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What was measured."""

    task: str
    possible: int
    """Routes there are."""
    starts: tuple[Start, ...]
    expert: tuple[Start, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the summaries."""
        return {
            **asdict(self),
            "entropy": _mean(self.starts),
            "expert_entropy": _mean(self.expert),
            "routes_found": _found(self.starts),
            "success": _success(self.starts),
        }

    def save(self, directory: str | Path) -> None:
        """Write ``coverage.json``."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        (Path(directory) / "coverage.json").write_text(json.dumps(self.to_dict(), indent=1) + "\n")

    def summary(self) -> str:
        """One sentence for people."""
        return (
            f"{self.task}: {_found(self.starts)} of {self.possible} routes, entropy {_mean(self.starts):.3f} "
            f"(expert {_mean(self.expert):.3f}), success {_success(self.starts):.3f}, over "
            f"{self.starts[0].episodes} episodes from each of {len(self.starts)} starts."
        )


def entropy(counts: Sequence[int], possible: int) -> float:
    """Entropy of counts over that of `possible` equal ones, in [0, 1]; 0 where nothing was counted."""
    share = np.array([count for count in counts if count], np.float64)
    if possible < 2 or not len(share):
        return 0.0
    share /= share.sum()
    return float(-(share * np.log(share)).sum() / math.log(possible))


def coverage(
    actor_of: Callable[[int], Actor],
    task: Task,
    seeds: Sequence[int],
    *,
    repetitions: int = 32,
    workers: int = 0,
) -> Coverage:
    """Run `repetitions` episodes from each start.

    Args:
        actor_of: the actor of each repetition: the same policy with other noise.
        seeds: the episodes that begin at the starts.

    Raises:
        MissingCapability: the task's environment knows no routes.
    """
    env = make_env(task)
    if not env.routes:
        env.close()
        raise MissingCapability(f"Task {task.name} has no routes to tell apart.")
    found: list[list[str | None]] = [[] for _ in seeds]
    envs = LaneVectorEnv(task, len(seeds), workers=workers, chunk=actor_of(0).action_horizon)
    try:
        for repetition in range(repetitions):
            for episode in run_episodes(envs, actor_of(repetition), seeds, record=True):
                found[episode.index].append(env.route(episode.data) if episode.success else None)
    finally:
        envs.close()
        env.close()
    possible = len(env.routes)
    expert = _demonstrated(json.dumps(task.to_dict(), sort_keys=True), tuple(seeds), repetitions)
    return Coverage(
        task=task.name,
        possible=possible,
        starts=tuple(_start(seed, routes, possible) for seed, routes in zip(seeds, found, strict=True)),
        expert=tuple(_start(seed, routes, possible) for seed, routes in zip(seeds, expert, strict=True)),
    )


@functools.lru_cache(maxsize=4)
def _demonstrated(task: str, seeds: tuple[int, ...], repetitions: int) -> tuple[tuple[str | None, ...], ...]:
    """The expert's routes, which are the same for every policy that it is compared with."""
    told = Task.from_dict(json.loads(task))
    env = make_env(told)
    try:
        return tuple(tuple(_demonstrate(env, told, seed, r) for r in range(repetitions)) for seed in seeds)
    finally:
        env.close()


def _demonstrate(env: RobotEnv, task: Task, seed: int, repetition: int) -> str | None:
    """The route of one of the expert's episodes; None if it failed."""
    observation, _ = env.reset(seed=seed)
    expert = env.expert(derive(seed, f"expert {repetition}"), task.expert)
    seen = []
    for _ in range(task.horizon):
        seen.append(observation)
        observation, _, terminated, _, info = env.step(expert.act(observation))
        if info["success"]:
            return env.route({key: np.stack([row[key] for row in seen]) for key in observation})
        if terminated:
            break
    return None


def _start(seed: int, routes: Sequence[str | None], possible: int) -> Start:
    counts = Counter(route for route in routes if route is not None)
    return Start(
        seed=seed,
        episodes=len(routes),
        successes=counts.total(),
        routes=dict(sorted(counts.items())),
        entropy=entropy(list(counts.values()), possible),
    )


def _mean(starts: Sequence[Start]) -> float:
    return sum(start.entropy for start in starts) / len(starts)


def _found(starts: Sequence[Start]) -> int:
    return len({route for start in starts for route in start.routes})


def _success(starts: Sequence[Start]) -> float:
    return sum(start.successes for start in starts) / sum(start.episodes for start in starts)
