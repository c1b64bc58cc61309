"""Reading chosen episodes and their statistics."""

from __future__ import annotations

import numpy as np
import pytest
from zarr.storage import MemoryStore

from robopolicy.data import rows
from robopolicy.data.rows import blocks, choose_episodes, statistics
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError


def make_store() -> EpisodeStore:
    rng = np.random.default_rng(0)
    episodes = [
        {
            "pos": rng.normal(size=(n, 3)),
            "cam": rng.integers(0, 255, (n, 4, 4, 3), dtype=np.uint8),
            "action": rng.normal(size=(n, 2)),
        }
        for n in (5, 9, 4, 7)
    ]
    return EpisodeStore.from_arrays(MemoryStore(), episodes, control_hz=10)


@pytest.mark.parametrize("block_bytes", [1, 100, 1 << 20])
def test_blocks_are_the_chosen_rows(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store()
    monkeypatch.setattr(rows, "BLOCK_BYTES", block_bytes)
    for key in store.keys:
        found = np.concatenate(list(blocks(store, key, np.array([0, 2, 3]))))
        np.testing.assert_array_equal(found, np.concatenate([store.episode(i)[key] for i in (0, 2, 3)]))


def test_statistics_of_chosen_episodes() -> None:
    store = make_store()
    found = statistics(store, [0, 2])
    assert set(found) == {"pos", "action"}  # no images
    expected = np.concatenate([store.episode(i)["pos"] for i in (0, 2)]).astype(np.float64)
    np.testing.assert_allclose(found["pos"].mean, expected.mean(0))
    np.testing.assert_allclose(found["pos"].std, expected.std(0))
    np.testing.assert_array_equal(found["pos"].min, expected.min(0))
    np.testing.assert_array_equal(found["pos"].max, expected.max(0))
    np.testing.assert_allclose(found["pos"].q99, np.quantile(expected, 0.99, axis=0))


def test_choice_of_episodes() -> None:
    store = make_store()
    assert list(choose_episodes(store, None)) == [0, 1, 2, 3]
    assert list(choose_episodes(store, [3, 0])) == [0, 3]
    for episodes, message in [
        ([], "no episodes"),
        ([4], "no episode 4"),
        ([-1], "no episode -1"),
        ([1, 1], "twice"),
    ]:
        with pytest.raises(DataError, match=message):
            choose_episodes(store, episodes)
