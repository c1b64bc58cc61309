from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError
from robopolicy.evaluation.collect import collect
from robopolicy.world.recordings import Recordings, Source, successes
from robopolicy.world.world import SUCCESS, TASK
from tests.toy_env import toy_spec
from tests.world.toy_world import TASK as TOY

KEYS = ["position", "goal"]


def store(path: Path, *, task: bool = True, success: bool | None = True) -> EpisodeStore:
    made = EpisodeStore.create(path, toy_spec(), task=TOY.to_dict() if task else None)
    for length in (5, 16):
        rows = np.arange(length, dtype=np.float32)[:, None].repeat(2, 1)
        made.append({"position": rows, "goal": 0 * rows, "action": rows + 1}, success=success)
    return made


def test_windows_repeat_the_first_row_and_mask_it(tmp_path: Path) -> None:
    recordings = Recordings(
        [Source(store(tmp_path / "a.zarr"), (0, 1), 3)], keys=KEYS, length=3, device="cpu"
    )
    assert len(recordings) == 4 + 15  # an episode's first row is not what any step leads to
    batch = recordings.gather(torch.tensor([0, 1, 2, 4]))
    assert batch.observation["position"][..., 0].tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [0, 0, 1]]
    assert batch.mask is not None
    assert batch.mask.tolist() == [[False, True, True], [True] * 3, [True] * 3, [False, True, True]]
    assert batch.observation[TASK].tolist() == [3] * 4


def test_weights_count_a_source_s_windows_several_times(tmp_path: Path) -> None:
    first, second = store(tmp_path / "a.zarr"), store(tmp_path / "b.zarr")
    sources = [Source(first, (0,), 0), Source(second, (0,), 1, weight=3)]
    recordings = Recordings(sources, keys=KEYS, length=2, device="cpu")
    tasks = recordings.gather(torch.arange(len(recordings))).observation[TASK]
    assert tasks.bincount().tolist() == [4, 12]


def test_a_store_of_which_nothing_is_held_out_is_no_obstacle(tmp_path: Path) -> None:
    first, second = store(tmp_path / "a.zarr"), store(tmp_path / "b.zarr")
    both = Recordings([Source(first, (), 0), Source(second, (0,), 1)], keys=KEYS, length=2, device="cpu")
    assert both.gather(torch.arange(len(both))).observation[TASK].tolist() == [1] * 4
    with pytest.raises(DataError, match=r"No episodes of .*a\.zarr are left"):
        Recordings([Source(first, (), 0)], keys=KEYS, length=2, device="cpu")


def test_success_is_told_by_the_flag_and_what_followed_it(tmp_path: Path) -> None:
    found = successes(store(tmp_path / "a.zarr"), [0, 1])
    assert found[0].tolist() == [0, 0, 0, 1, 1]  # success_hold is 2
    assert found[1].tolist() == [0] * 14 + [-1, -1]  # cut off at the horizon: unknown
    assert all((labels == 0).all() for labels in successes(store(tmp_path / "b.zarr", success=False), [0, 1]))


def test_flags_and_columns_agree(stores: list[Path], tmp_path: Path) -> None:
    collect(TOY, tmp_path / "expert.zarr", episodes=8, workers=0, progress=False)
    flagged = EpisodeStore.open(tmp_path / "expert.zarr")
    labelled = EpisodeStore.open(stores[0])
    shared = sorted(set(flagged.seeds.tolist()) & set(labelled.seeds.tolist()))
    assert shared
    for seed in shared:
        i, j = (int(np.flatnonzero(s.seeds == seed)[0]) for s in (flagged, labelled))
        one, other = successes(flagged, [i])[0], successes(labelled, [j])[0]
        first = int(np.argmax(other > 0))
        assert (one[: first + 1] == other[: first + 1]).all() or (one == -1).any()


def test_missing_successes_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"episode 0 does not say whether it succeeded"):
        successes(store(tmp_path / "a.zarr", success=None), [0])
    with pytest.raises(DataError, match="does not name its task"):
        successes(store(tmp_path / "b.zarr", task=False), [0])


def test_labels_are_those_of_the_window_s_rows(stores: list[Path]) -> None:
    source = EpisodeStore.open(stores[0])
    recordings = Recordings([Source(source, (0,), 0)], keys=KEYS, length=2, device="cpu")
    batch = recordings.gather(torch.arange(len(recordings)))
    near = (batch.observation["position"] - batch.observation["goal"]).norm(dim=-1) < 0.08
    assert torch.equal(batch.observation[SUCCESS][:, 1] == 1, near[:, 1])
