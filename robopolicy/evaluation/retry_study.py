"""Retries of several policies on the same episodes: what ``scripts/retries.py`` runs."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.data.store import EpisodeStore
from robopolicy.env import RobotEnv, make_env
from robopolicy.errors import ConfigError
from robopolicy.evaluation.compare import short_names
from robopolicy.evaluation.evaluate import evaluate
from robopolicy.evaluation.machine import stamp
from robopolicy.evaluation.markdown import Files, Values, markdown, success
from robopolicy.evaluation.retries import RetryRow, attempts, summarise
from robopolicy.registry import plain
from robopolicy.rollout import Episode, PolicyActor
from robopolicy.seeding import BLOCKS
from robopolicy.task import Task

__all__ = ["DEMONSTRATIONS", "RetryStudyConfig", "retry_table", "run_study"]

DEMONSTRATIONS = "demonstrations"


@dataclass(frozen=True, kw_only=True)
class RetryStudyConfig:
    """The root of ``configs/retries.yaml``."""

    checkpoints: tuple[str, ...]
    """Those whose runs differ in their directory ``seed<k>`` alone are one policy."""
    data: str | None = None
    """Demonstrations, in which retries are counted too: what is shown there does not emerge."""
    perturb: Mapping[str, Any] | None = None
    """What goes wrong besides: a `Perturbation`, after those of the task."""
    episodes: int = 100
    lanes: int = 10
    workers: int = 2
    block: str = "report"
    offset: int = 0
    out: str | None = None
    """``results/checks/retries_<task>[_<perturbation>].json`` by default."""
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.checkpoints or len({*self.checkpoints}) < len(self.checkpoints):
            raise ConfigError("retries needs checkpoints=[...], each of them once.")
        if min(self.episodes, self.lanes) < 1 or self.workers < 0:
            raise ConfigError("retries needs episodes, lanes >= 1 and workers >= 0.")
        if self.block not in BLOCKS:
            raise ConfigError(f"retries: block is one of {', '.join(BLOCKS)}, got {self.block}.")


def run_study(config: RetryStudyConfig) -> tuple[Path, dict[str, Any]]:
    """Count attempts of every policy, and in the demonstrations; written to one file.

    Raises:
        ConfigError: the policies' tasks differ.
        MissingCapability: the task does not tell how gripper and object stand to one another.
    """
    from robopolicy.device import choose_device
    from robopolicy.learning.checkpoint import load

    started, device = time.perf_counter(), choose_device(config.device)
    policies = [load(path, device=device) for path in config.checkpoints]
    tasks = [policy.provenance.task for policy in policies]
    task = tasks[0]
    if task is None or any(other != task for other in tasks):
        raise ConfigError("retries needs checkpoints of one task, equal in all its settings.")
    if config.perturb is not None:
        task = replace(task, perturb=(*task.perturb, config.perturb))
    env = make_env(task)
    try:
        _refuse_if_untold(env)
        tables: dict[str, list[list[RetryRow]]] = {}
        if config.data is not None:
            tables[DEMONSTRATIONS] = [_demonstrated(env, config.data)]
        for policy, name in zip(policies, _names(config.checkpoints), strict=True):
            rows = _played(env, task, PolicyActor(policy), policy.provenance.used_seeds, config)
            tables.setdefault(name, []).append(rows)
    finally:
        env.close()
    found: dict[str, Any] = {
        "config": plain(config),
        "task": task.name,
        "perturb": plain(config.perturb),
        "policies": {name: summarise(table) for name, table in tables.items()},
        "episodes": {name: [[asdict(row) for row in rows] for rows in t] for name, t in tables.items()},
        "wall_seconds": time.perf_counter() - started,
        **stamp(),
    }
    how = "" if config.perturb is None else f"_{config.perturb['name']}"
    path = Path(config.out or f"results/checks/retries_{task.name}{how}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    return path, found


def retry_table(files: Files) -> str:
    """A line for each policy of each file: shares, and of how many episodes they are."""
    lines = []
    for values in files.values():
        perturb = values["perturb"] or {"name": "-", "level": ""}
        for name, row in values["policies"].items():
            kinds = ("success", "first attempt failed", "tried again", "then succeeded")
            how = [values["task"], f"{perturb['name']} {perturb['level']}".strip()]
            cells = [name, str(row["training seeds"]), *(_share(row[kind]) for kind in kinds)]
            lines.append([*how, *cells, f"{row['attempts']:.1f}"])
    head = ["Task", "Perturbation", "Policy", "Training seeds", "Success [95%], of episodes",
            "First attempt fails, of episodes", "Tries again, of those with the time",
            "Then succeeds, of those that try", "Attempts an episode"]  # fmt: skip
    return markdown(head, lines)


def _share(values: Values) -> str:
    return f"{success(values)} of {values['of']}" if values["of"] else "-"


def _played(
    env: RobotEnv, task: Task, actor: PolicyActor, used: Sequence[int], config: RetryStudyConfig
) -> list[RetryRow]:
    """A policy's episodes in the order of their seeds."""
    found: dict[int, RetryRow] = {}

    def watch(episode: Episode) -> None:
        end = episode.first_success if episode.success else episode.steps
        found[episode.seed] = _row(env, episode.data, end, seed=episode.seed, success=episode.success)

    evaluate(
        actor, task, episodes=config.episodes, block=config.block, offset=config.offset, lanes=config.lanes,
        workers=config.workers, used_seeds=used, watch=watch,
    )  # fmt: skip
    return [found[seed] for seed in sorted(found)]


def _demonstrated(env: RobotEnv, path: str) -> list[RetryRow]:
    store = EpisodeStore.open(path)
    found = []
    for index, (seed, outcome) in enumerate(zip(store.seeds.tolist(), store.successes.tolist(), strict=True)):
        episode = store.episode(index)
        found.append(_row(env, episode, len(episode["action"]), seed=seed, success=outcome == 1))
    return found


def _row(env: RobotEnv, data: Mapping[str, np.ndarray], end: int, *, seed: int, success: bool) -> RetryRow:
    grasp = env.grasp({key: value[:end] for key, value in data.items()})
    return RetryRow(seed=seed, success=success, steps=end, attempts=attempts(grasp, success))


def _refuse_if_untold(env: RobotEnv) -> None:
    """Before the episodes are played, not after."""
    observation, _ = env.reset(seed=0)
    env.grasp({key: value[None] for key, value in observation.items()})


def _names(checkpoints: Sequence[str]) -> list[str]:
    """Of the policy that each is a checkpoint of, as short as they can be told apart."""
    without = [re.sub(r"/seed\d+(?=/|$)", "", path) for path in checkpoints]
    whole = list(dict.fromkeys(without))
    short = dict(zip(whole, short_names(whole), strict=True))
    return [short[path] for path in without]
