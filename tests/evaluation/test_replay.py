from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robopolicy.compose import compose
from robopolicy.data.store import EpisodeStore
from robopolicy.env import make_env
from robopolicy.errors import ConfigError, DataError
from robopolicy.evaluation.replay import replay
from robopolicy.seeding import episode_seeds
from robopolicy.task import Task
from tests.toy_env import toy_task


def record(path: Path, task: Task, count: int, states: slice | None, seeds: bool = False) -> EpisodeStore:
    """Expert episodes with the simulator states `[T, S]` before each action, or a part of them."""
    env = make_env(task)
    size = len(env.get_state()[states]) if states is not None else 0
    extra = {} if states is None else {"states": (size,)}
    store = EpisodeStore.create(path, env.robot_spec, extra=extra)
    for seed in episode_seeds("collect", count):
        observation, _ = env.reset(seed=seed)
        expert, success, rows = env.expert(seed, task.expert), False, []
        while not success and len(rows) < task.horizon:
            row = {**observation, "action": np.asarray(expert.act(observation), np.float32)}
            if states is not None:
                row["states"] = env.get_state()[states]
            rows.append(row)
            observation, _, _, _, info = env.step(row["action"])
            success = info["success"]
        arrays = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        store.append(arrays, seed=seed if seeds else None, success=success)
    env.close()
    return store


def test_from_states(tmp_path: Path) -> None:
    task = toy_task(noise=0.2, lazy=0.4)
    store = record(tmp_path / "a.zarr", task, 12, slice(None))
    assert replay(store, task, episodes=12, progress=False) == store.successes.astype(bool).tolist()
    assert 0 < store.successes.sum() < 12
    assert len(replay(store, task, episodes=5, progress=False)) == 5


def test_from_seeds(tmp_path: Path) -> None:
    task = toy_task(noise=0.2, lazy=0.4)
    store = record(tmp_path / "a.zarr", task, 12, None, seeds=True)
    found = replay(store, task, episodes=12, workers=0, progress=False)
    assert found == store.successes.astype(bool).tolist()


@pytest.mark.sim
def test_lift_from_what_robosuite_records(tmp_path: Path) -> None:
    import mujoco

    task = Task.from_dict(compose("collect", ["task=lift"])["task"])
    env = make_env(task)
    model, _ = env.simulation  # type: ignore[attr-defined]
    env.close()
    kinds = mujoco.mjtState
    size = mujoco.mj_stateSize(model, kinds.mjSTATE_TIME | kinds.mjSTATE_PHYSICS)
    store = record(tmp_path / "a.zarr", task, 2, slice(size))
    assert (store.successes == 1).all()
    assert replay(store, task, episodes=2, progress=False) == [True, True]


def test_what_cannot_be_replayed_says_why(tmp_path: Path) -> None:
    task = toy_task()
    bare = record(tmp_path / "bare.zarr", task, 1, None)
    with pytest.raises(DataError, match="neither its episodes' seeds nor simulator states"):
        replay(bare, task, episodes=1, progress=False)
    with pytest.raises(ConfigError, match="at least 1 episode"):
        replay(bare, task, episodes=0, progress=False)
