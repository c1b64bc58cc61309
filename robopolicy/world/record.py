"""Recording what any actor does, at random for instance: a world model has to know more than good actions."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError
from robopolicy.evaluation.collect import LABELS
from robopolicy.rollout import Actor, run_episodes
from robopolicy.seeding import episode_seeds
from robopolicy.task import Task
from robopolicy.vector import LaneVectorEnv

__all__ = ["record"]


def record(
    task: Task,
    path: str | Path,
    actor: Actor,
    *,
    episodes: int,
    offset: int = 0,
    lanes: int = 8,
    workers: int = 0,
    progress: bool = True,
) -> EpisodeStore:
    """A new store of the actor's episodes on collection seeds, in their order, each step with its success.

    Raises:
        DataError: something is there already.
    """
    if Path(path).exists():
        raise DataError(f"{path} exists already. Choose another path.")
    envs = LaneVectorEnv(task, min(lanes, episodes), workers=workers, chunk=actor.action_horizon)
    try:
        store = EpisodeStore.create(path, envs.robot_spec, task=task.to_dict(), extra=LABELS)
        seeds = episode_seeds("collect", episodes, offset)
        found = tqdm(
            run_episodes(envs, actor, seeds, record=True), total=episodes, unit="ep", disable=not progress
        )
        for episode in sorted(found, key=lambda episode: episode.index):
            arrays = {key: value for key, value in episode.data.items() if key in store.keys}
            arrays |= {key: arrays[key].astype("float64") for key in store.extra}
            store.append(arrays, seed=episode.seed, success=episode.success, instruction=task.instruction)
    finally:
        envs.close()
    return store
