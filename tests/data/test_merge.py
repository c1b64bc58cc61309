"""Stores put together: order, labels, columns that all have, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robopolicy.data.merge import MergeConfig, merge
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError, DataError, SpecMismatch
from robopolicy.spec import Spec


def store(
    path: Path, seeds: list[int], successes: list[bool | None], *, size: int = 3, extra: bool = False
) -> str:
    rng = np.random.default_rng(seeds[0])
    state, action = rng.random((4, size)).astype(np.float32), np.zeros((4, 2), np.float32)
    spec = Spec.from_arrays({"state": state}, action, control_hz=10)
    made = EpisodeStore.create(path, spec, task={"name": path.stem}, extra={"reward": ()} if extra else {})
    for seed, success in zip(seeds, successes, strict=True):
        rows = {"state": state, "action": rng.random((4, 2)).astype(np.float32)}
        rows |= {"reward": np.ones(4)} if extra else {}
        made.append(rows, seed=seed, success=success, instruction=path.stem)
    return str(path)


def test_episodes_keep_their_labels_and_order(tmp_path: Path) -> None:
    a = store(tmp_path / "a.zarr", [1, 2, 3], [True, False, None], extra=True)
    b = store(tmp_path / "b.zarr", [7], [True])
    merged = merge(MergeConfig(data=(a, b), out=str(tmp_path / "all.zarr")))
    assert merged.seeds.tolist() == [1, 2, 3, 7]
    assert merged.successes.tolist() == [1, 0, -1, 1]
    assert merged.instructions == ["a", "a", "a", "b"]
    assert merged.task is None
    assert merged.extra == {}
    np.testing.assert_array_equal(merged.episode(3)["action"], EpisodeStore.open(b).episode(0)["action"])


def test_successful_ones_alone_and_so_many_of_each(tmp_path: Path) -> None:
    a = store(tmp_path / "a.zarr", [1, 2, 3], [True, None, True], extra=True)
    good = merge(MergeConfig(data=(a,), out=str(tmp_path / "good.zarr"), successful=True))
    assert good.seeds.tolist() == [1, 3]
    assert good.task == {"name": "a"}
    assert good.extra == {"reward": ()}
    first = merge(MergeConfig(data=(a,), out=str(tmp_path / "first.zarr"), episodes=1))
    assert first.seeds.tolist() == [1]


def test_the_same_random_actions_in_two_tasks_are_two_episodes(tmp_path: Path) -> None:
    paths = [store(tmp_path / f"{name}.zarr", [1], [True]) for name in "ab"]
    actions = [EpisodeStore.open(path).episode(0)["action"] for path in paths]
    np.testing.assert_array_equal(*actions)
    both = str(tmp_path / "both.zarr")
    assert len(merge(MergeConfig(data=tuple(paths), out=both))) == 2
    with pytest.raises(DataError, match=r"Episode 0 of .*b.zarr, seed 1, is in .*both.zarr too"):
        merge(MergeConfig(data=(both, paths[1]), out=str(tmp_path / "again.zarr")))


def test_what_is_refused(tmp_path: Path) -> None:
    a = store(tmp_path / "a.zarr", [1], [False])
    wide = store(tmp_path / "wide.zarr", [2], [True], size=5)
    out = str(tmp_path / "out.zarr")
    with pytest.raises(DataError, match="no successful episode in"):
        merge(MergeConfig(data=(a,), out=out, successful=True))
    with pytest.raises(SpecMismatch, match="state"):
        merge(MergeConfig(data=(a, wide), out=out))
    with pytest.raises(DataError, match=r"Episode 0 of .*a.zarr, seed 1, is in .*a.zarr too"):
        merge(MergeConfig(data=(a, a), out=out))
    with pytest.raises(ConfigError, match="written over itself"):
        MergeConfig(data=(a,), out=a)
    assert not Path(out).exists()
