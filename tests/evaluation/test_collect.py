from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError, DataError
from robopolicy.evaluation.collect import POLICY_OFFSET, collect
from robopolicy.evaluation.recorded import CollectConfig, recorded
from robopolicy.learning.checkpoint import save_checkpoint
from robopolicy.rollout import PolicyActor, ReplayActor, run_episodes
from robopolicy.seeding import block_of
from robopolicy.vector import LaneVectorEnv
from tests.commands import run
from tests.rl.toy_base import TASK as ASTRAY
from tests.rl.toy_base import astray
from tests.toy_env import toy_spec, toy_task

TASK = toy_task(noise=0.3, lazy=0.4)


def test_only_successes_are_kept_and_failures_are_counted(tmp_path: Path) -> None:
    result = collect(TASK, tmp_path / "a.zarr", episodes=12, lanes=4, workers=0, progress=False)
    store = EpisodeStore.open(tmp_path / "a.zarr")
    assert len(store) == result.kept == 12
    assert result.discarded == store.seeds[-1] + 1 - 12 > 0
    assert (store.successes == 1).all()
    assert result.steps == store.lengths.sum() == len(store.read("action"))
    assert {block_of(seed) for seed in store.seeds.tolist()} == {"collect"}
    assert store.task == TASK.to_dict()
    assert set(store.instructions) == {"go to the goal"}
    store.spec.require(toy_spec())


def test_the_store_is_the_same_for_any_lanes_and_workers(tmp_path: Path) -> None:
    prints = set()
    for lanes, workers in ((1, 0), (5, 0), (4, 2)):
        path = tmp_path / f"{lanes}-{workers}.zarr"
        collect(TASK, path, episodes=9, lanes=lanes, workers=workers, progress=False)
        store = EpisodeStore.open(path)
        prints.add((store.fingerprint(), tuple(store.seeds.tolist())))
    assert len(prints) == 1


def test_two_calls_equal_one(tmp_path: Path) -> None:
    whole = collect(TASK, tmp_path / "whole.zarr", episodes=10, lanes=3, workers=0, progress=False)
    collect(TASK, tmp_path / "parts.zarr", episodes=4, lanes=3, workers=0, progress=False)
    parts = collect(TASK, tmp_path / "parts.zarr", episodes=10, lanes=3, workers=0, progress=False)
    assert (parts.kept, parts.discarded, parts.steps) == (whole.kept, whole.discarded, whole.steps)
    first, second = (EpisodeStore.open(tmp_path / f"{name}.zarr") for name in ("whole", "parts"))
    assert first.fingerprint() == second.fingerprint()
    again = collect(TASK, tmp_path / "parts.zarr", episodes=10, workers=0, progress=False)
    assert again.discarded == whole.discarded


def test_an_interrupted_collection_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append = EpisodeStore.append

    def fail_on_fourth(self: EpisodeStore, *args: object, **kwargs: object) -> None:
        if len(self) == 3:
            raise KeyboardInterrupt
        append(self, *args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(EpisodeStore, "append", fail_on_fourth)
        with pytest.raises(KeyboardInterrupt):
            collect(TASK, tmp_path / "a.zarr", episodes=8, lanes=3, workers=0, progress=False)
    assert len(EpisodeStore.open(tmp_path / "a.zarr")) == 3
    collect(TASK, tmp_path / "a.zarr", episodes=8, lanes=3, workers=0, progress=False)
    collect(TASK, tmp_path / "b.zarr", episodes=8, lanes=3, workers=0, progress=False)
    assert (
        EpisodeStore.open(tmp_path / "a.zarr").fingerprint()
        == EpisodeStore.open(tmp_path / "b.zarr").fingerprint()
    )


def test_replaying_the_actions_succeeds_again(tmp_path: Path) -> None:
    collect(TASK, tmp_path / "a.zarr", episodes=6, lanes=3, workers=0, progress=False)
    store = EpisodeStore.open(tmp_path / "a.zarr")
    seeds = store.seeds.tolist()
    actions = {seed: store.episode(i)["action"] for i, seed in enumerate(seeds)}
    envs = LaneVectorEnv(TASK, 2, chunk=4)
    episodes = sorted(
        run_episodes(envs, ReplayActor(actions, 4), seeds, record=True), key=lambda episode: episode.index
    )
    envs.close()
    assert all(episode.success for episode in episodes)
    for index, episode in enumerate(episodes):
        np.testing.assert_array_equal(episode.data["position"], store.episode(index)["position"])


def test_an_offset_gives_other_episodes(tmp_path: Path) -> None:
    collect(TASK, tmp_path / "a.zarr", episodes=3, workers=0, progress=False)
    collect(TASK, tmp_path / "b.zarr", episodes=3, workers=0, offset=500, progress=False)
    a, b = (EpisodeStore.open(tmp_path / f"{name}.zarr") for name in "ab")
    assert not set(a.seeds.tolist()) & set(b.seeds.tolist())
    assert b.seeds[0] >= 500
    with pytest.raises(DataError, match="not collected from seed 0"):
        collect(TASK, tmp_path / "b.zarr", episodes=5, workers=0, progress=False)


def test_another_task_is_refused_and_names_what_differs(tmp_path: Path) -> None:
    collect(TASK, tmp_path / "a.zarr", episodes=2, workers=0, progress=False)
    with pytest.raises(DataError, match="expert, horizon"):
        collect(toy_task(horizon=31), tmp_path / "a.zarr", episodes=3, workers=0, progress=False)


def test_an_expert_that_fails_is_told_and_its_successes_stay(tmp_path: Path) -> None:
    task = toy_task(lazy=0.9)
    with pytest.raises(DataError, match="were wanted"):
        collect(task, tmp_path / "a.zarr", episodes=20, workers=0, max_attempts=1, progress=False)
    kept = len(EpisodeStore.open(tmp_path / "a.zarr"))
    assert 0 < kept < 20


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="episodes >= 1"):
        collect(TASK, tmp_path / "a.zarr", episodes=0, progress=False)
    with pytest.raises(ConfigError, match="Unknown mode 'wavy'"):
        collect(toy_task(mode="wavy"), tmp_path / "b.zarr", episodes=1, workers=0, progress=False)


def test_a_policy_is_recorded_with_its_failures_and_every_step_is_labelled(tmp_path: Path) -> None:
    policy = astray(bias=0.1, spread=0.6)
    result = collect(
        ASTRAY, tmp_path / "a.zarr", episodes=30, lanes=10, workers=0, offset=POLICY_OFFSET,
        actor=PolicyActor(policy), origin="some/run", progress=False,
    )  # fmt: skip
    store = EpisodeStore.open(tmp_path / "a.zarr")
    assert store.seeds.tolist() == list(range(POLICY_OFFSET, POLICY_OFFSET + 30))
    assert result.failures == (store.successes == 0).sum() > 0
    assert (store.successes == 1).sum() > 0
    assert result.discarded == 0
    assert f"{result.failures} failures kept" in result.summary()
    assert store.origin == {"checkpoint": "some/run"}
    for index, success in enumerate(store.successes):
        episode = store.episode(index)
        assert bool(episode["success"].any()) == bool(success)
        np.testing.assert_array_equal(episode["reward"], episode["success"])  # this task pays success


def test_recording_a_policy_goes_on_and_never_mixes_two(tmp_path: Path) -> None:
    def record(name: str, episodes: int, origin: str = "one") -> EpisodeStore:
        collect(
            ASTRAY, tmp_path / name, episodes=episodes, lanes=4, workers=0, actor=PolicyActor(astray()),
            origin=origin,
            progress=False,
        )  # fmt: skip
        return EpisodeStore.open(tmp_path / name)

    whole, parts = record("whole.zarr", 12), record("parts.zarr", 4)
    assert len(parts) == 4
    assert record("parts.zarr", 12).fingerprint() == whole.fingerprint()
    with pytest.raises(DataError, match="holds episodes of one, not of other"):
        record("parts.zarr", 14, "other")
    with pytest.raises(DataError, match="not of the expert"):
        collect(ASTRAY, tmp_path / "parts.zarr", episodes=14, workers=0, progress=False)


def test_the_command_records_a_checkpoint_on_its_own_task(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "run", astray())
    run(
        "collect",
        f"checkpoint={tmp_path}/run",
        f"out={tmp_path}/a.zarr",
        "episodes=3",
        "lanes=3",
        "workers=0",
    )
    store = EpisodeStore.open(tmp_path / "a.zarr")
    assert store.seeds.tolist() == [500_000, 500_001, 500_002]
    assert store.task == ASTRAY.to_dict()


def test_random_episodes_are_recorded_whole_with_their_labels(tmp_path: Path) -> None:
    config = CollectConfig(task=TASK.to_dict(), policy={"name": "random"}, episodes=4)
    who = recorded(config)
    assert (who.suffix, who.offset) == ("_random", 900_000)
    collect(
        who.task, tmp_path / "a.zarr", episodes=4, workers=0, offset=who.offset, actor=who.actor,
        origin=who.origin, progress=False,
    )  # fmt: skip
    store = EpisodeStore.open(tmp_path / "a.zarr")
    assert store.seeds.tolist() == [900_000, 900_001, 900_002, 900_003]
    assert store.origin == {"checkpoint": "random"}
    assert {"reward", "success"} <= set(store.extra)
    assert np.ptp(store.episode(0)["action"]) > 0.5
    with pytest.raises(ConfigError, match=r"either checkpoint=.* or policy=random, not both"):
        CollectConfig(checkpoint="outputs/x", policy={"name": "random"})
    with pytest.raises(ConfigError, match=r"Unknown policy to record 'diffusion'.*checkpoint=outputs"):
        CollectConfig(policy={"name": "diffusion"})
    with pytest.raises(ConfigError, match=r"expert\.noise"):
        CollectConfig(noise=0.1)
    with pytest.raises(ConfigError, match="Give task="):
        recorded(CollectConfig(policy={"name": "random"}))
