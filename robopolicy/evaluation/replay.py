"""Recorded actions, executed again: does what was stored still do the task?"""

from __future__ import annotations

from robopolicy.data.store import EpisodeStore
from robopolicy.env import make_env
from robopolicy.errors import ConfigError, DataError, MissingCapability
from robopolicy.evaluation.evaluate import evaluate
from robopolicy.rollout import ReplayActor
from robopolicy.task import Task

__all__ = ["STATES", "replay", "replay_actor"]

STATES = "states"
"""The column of simulator states, as robomimic and robosuite name it."""


def replay_actor(store: EpisodeStore, count: int) -> tuple[ReplayActor, list[int]]:
    """An actor that repeats the first `count` episodes, and their seeds.

    Raises:
        DataError: the seeds are not recorded.
    """
    seeds = store.seeds.tolist()[:count]
    if -1 in seeds:
        raise DataError(f"{store.where} does not record its episodes' seeds; they cannot be replayed.")
    return ReplayActor({seed: store.episode(i)["action"] for i, seed in enumerate(seeds)}), seeds


def replay(
    store: EpisodeStore,
    task: Task,
    *,
    episodes: int,
    lanes: int = 10,
    workers: int = 2,
    progress: bool = True,
) -> list[bool]:
    """Whether each of the first episodes succeeds again.

    An episode starts from its seed where that is recorded, otherwise from its first simulator state.

    Raises:
        ConfigError: no episodes, or actions of another size than the task's.
        DataError: neither seeds nor simulator states are recorded.
    """
    if episodes < 1:
        raise ConfigError(f"Replaying needs at least 1 episode, got {episodes}.")
    if -1 not in store.seeds[:episodes]:
        actor, seeds = replay_actor(store, episodes)
        table = evaluate(actor, task, seeds=seeds, lanes=lanes, workers=workers, progress=progress)
        return [row.success for row in table.rows]
    if STATES not in store.keys:
        raise DataError(
            f"{store.where} records neither its episodes' seeds nor simulator states (a column {STATES!r}); "
            "it cannot be replayed."
        )
    return _from_states(store, task, episodes)


def _from_states(store: EpisodeStore, task: Task, episodes: int) -> list[bool]:
    env = make_env(task)
    if store.spec.action.size != env.robot_spec.action.size:
        raise ConfigError(
            f"Actions of {store.where} have {store.spec.action.size} dimensions, "
            f"those of task {task.name} {env.robot_spec.action.size}."
        )
    results = []
    try:
        for index in range(min(episodes, len(store))):
            episode = store.episode(index)
            env.reset(seed=0)
            env.set_state(episode[STATES][0])
            # any() would stop at the first success; the rest is not needed either.
            results.append(any(env.step(action)[4]["success"] for action in episode["action"]))
    except MissingCapability as error:
        raise DataError(f"Task {task.name} cannot start from simulator states: {error}") from error
    finally:
        env.close()
    return results
