"""Episodes into a store: successes of a task's scripted expert, or whatever another actor does.

Of the expert's failures only the number is kept. A policy's are what a value learns from, and random episodes
what a world model learns from, so they stay, and every step is labelled in two further columns, "reward" and
"success".
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError, DataError
from robopolicy.progress import progress_bar
from robopolicy.rollout import Actor, Episode, ExpertActor, run_episodes
from robopolicy.seeding import BLOCKS, block_of, episode_seeds
from robopolicy.task import Task
from robopolicy.vector import LaneVectorEnv

__all__ = ["BASELINE_OFFSET", "CHUNK", "LABELS", "POLICY_OFFSET", "Collection", "collect"]

CHUNK = 16
POLICY_OFFSET = 500_000
"""Where policies begin in the block of collection seeds: not at the starts they were taught."""
BASELINE_OFFSET = 900_000
"""Where actors that learned nothing begin."""
LABELS: dict[str, tuple[int, ...]] = {"reward": (), "success": ()}


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What a collection ended with, counted over the whole store."""

    path: Path
    kept: int
    discarded: int
    """Episodes the expert failed, among the seeds up to the last one kept."""
    failures: int
    """Episodes kept that a policy failed."""
    steps: int
    """In the store."""
    seconds: float
    """Of this call."""

    def summary(self) -> str:
        """One sentence for people."""
        tried = self.kept + self.discarded
        what = f"{self.failures} failures kept, {self.discarded} discarded"
        return (
            f"{self.path}: kept {self.kept} of {tried} episodes ({what}), {self.steps} steps, "
            f"{self.seconds:.1f} s."
        )


def collect(
    task: Task,
    path: str | Path,
    *,
    episodes: int,
    lanes: int = 8,
    workers: int = 2,
    offset: int = 0,
    max_attempts: float = 3.0,
    progress: bool = True,
    actor: Actor | None = None,
    origin: str = "",
) -> Collection:
    """Fill a store with `episodes` successful episodes of the task's expert, or all of another actor's.

    Seeds of the "collect" block are tried in order from `offset` on, and committed in that order, so the
    store is the same for any number of workers, and the expert's for any number of lanes. An existing store
    goes on where it ended: one made in two calls equals one made in a single call.

    Args:
        max_attempts: give up after this many attempts for every episode still wanted.
        actor: acts instead of the expert.
        origin: its checkpoint or its name, recorded in the store.

    Raises:
        DataError: the store is of another task or checkpoint or began at other seeds, or the expert fails
            too often; what was collected stays.
    """
    if episodes < 1 or max_attempts < 1:
        raise ConfigError(f"Need episodes >= 1, max_attempts >= 1; got {episodes}, {max_attempts}.")
    started = time.perf_counter()
    store = EpisodeStore.open(path, "a") if Path(path).exists() else None
    if store is not None and not len(store):
        store = None  # left by a call that failed before its first episode, maybe with other settings
    first = BLOCKS["collect"] + offset
    begin = first if store is None else _resume(store, task, first, max_attempts, origin)
    missing = episodes - (len(store) if store is not None else 0)
    if missing > 0:
        seeds = episode_seeds("collect", _limit(missing, max_attempts), begin - BLOCKS["collect"])
        acting: Actor = ExpertActor(CHUNK) if actor is None else actor
        envs = LaneVectorEnv(task, min(lanes, missing), workers=workers, chunk=acting.action_horizon)
        try:
            if store is None:
                store = EpisodeStore.create(
                    path, envs.robot_spec, task=task.to_dict(), overwrite=True,
                    extra=None if actor is None else LABELS,
                    origin={"checkpoint": origin} if origin else None,
                )  # fmt: skip
            envs.robot_spec.require(store.spec, f"store {path}")
            with progress_bar(total=episodes, initial=len(store), unit="ep", disable=not progress) as bar:
                bar.set_description(f"collect {task.name}")
                for episode in _kept(envs, acting, seeds, missing, failures=actor is not None):
                    arrays = {key: value for key, value in episode.data.items() if key in store.keys}
                    arrays |= {key: arrays[key].astype("float64") for key in store.extra}
                    store.append(
                        arrays, seed=episode.seed, success=episode.success, instruction=task.instruction
                    )
                    bar.update()
        finally:
            envs.close()
        if len(store) < episodes:
            raise DataError(
                f"The expert of task {task.name} succeeded in {len(store)} episodes of the "
                f"{seeds[-1] - first + 1} tried, {episodes} were wanted. They are kept in {path}; "
                "change task.expert, or raise max_attempts to go on."
            )
    assert store is not None
    return Collection(
        path=Path(path),
        kept=len(store),
        discarded=int(store.seeds[-1]) - first + 1 - len(store),
        failures=int((store.successes == 0).sum()),
        steps=int(store.episode_ends[-1]),
        seconds=time.perf_counter() - started,
    )


def _limit(episodes: int, max_attempts: float) -> int:
    return int(max_attempts * episodes) + 10


def _kept(
    envs: LaneVectorEnv, actor: Actor, seeds: list[int], wanted: int, *, failures: bool
) -> Iterator[Episode]:
    """The first `wanted` (successful) episodes in the order of their seeds, whatever order they finish in."""
    waiting: dict[int, Episode] = {}
    position = yielded = good = 0

    def enough(episode: Episode) -> bool:
        nonlocal good
        good += episode.success or failures
        return good >= wanted

    for episode in run_episodes(envs, actor, seeds[:wanted] if failures else seeds, record=True, stop=enough):
        waiting[episode.index] = episode
        while position in waiting:
            ready = waiting.pop(position)
            position += 1
            if ready.success or failures:
                yield ready
                yielded += 1
            if yielded == wanted:
                return


def _resume(store: EpisodeStore, task: Task, first: int, max_attempts: float, origin: str) -> int:
    """The seed to go on from."""
    if (found := store.origin.get("checkpoint", "")) != origin:
        raise DataError(
            f"{store.where} holds episodes of {found or 'the expert'}, not of {origin or 'the expert'}. "
            "Choose another path."
        )
    if store.task is None or Task.from_dict(store.task) != task:
        raise DataError(
            f"{store.where} holds another task or other settings of it "
            f"({', '.join(_differing(store.task or {}, task.to_dict()))}). Choose another path."
        )
    seeds = store.seeds.tolist()
    began_here = first <= seeds[0] <= first + _limit(len(seeds), max_attempts)
    if not began_here or seeds != sorted(set(seeds)) or block_of(seeds[-1]) != "collect":
        raise DataError(f"{store.where} was not collected from seed {first} on; it begins at {seeds[0]}.")
    return int(seeds[-1]) + 1


def _differing(stored: dict[str, object], wanted: dict[str, object]) -> list[str]:
    return sorted(key for key in stored.keys() | wanted.keys() if stored.get(key) != wanted.get(key))
