"""Whatever write of an episode store fails, and whenever its writer dies: what was committed stays."""

from __future__ import annotations

import errno
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from zarr.storage import MemoryStore, WrapperStore

from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError
from tests.data.stores import assert_holds, fill, make_episode

LONG = 7  # its episode is longer than the one of seed 8 that is written over its remains


class FailingStore(WrapperStore):
    """Writes until the k-th, which fails; `once` lets later ones through again (a disk with room again)."""

    def __init__(self, store: MemoryStore, k: int, once: bool) -> None:
        super().__init__(store)
        self.left, self.once = k, once

    async def set(self, key: str, value: object) -> None:
        self.left -= 1
        if self.left == -1 or (self.left < 0 and not self.once):
            raise OSError(errno.ENOSPC, "No space left on device")
        await self._store.set(key, value)


@pytest.mark.parametrize("zarr_format", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_every_write_of_an_append_may_fail(zarr_format: int) -> None:
    memory = MemoryStore()
    fill(memory, 3, zarr_format=zarr_format)
    base = dict(memory._store_dict)
    counting = FailingStore(MemoryStore(dict(base)), 10_000, once=False)
    EpisodeStore.open(counting, "a").append(make_episode(LONG), seed=LONG, instruction="new text")
    total = 10_000 - counting.left
    assert total > 15
    for once in (False, True):
        for k in range(0, total, 1 if zarr_format == 2 else 4):
            inner = MemoryStore(dict(base))
            store = EpisodeStore.open(FailingStore(inner, k, once), "a")
            with pytest.raises(DataError, match=r"No space left.*3 episodes \(\d+ steps\) are committed"):
                store.append(make_episode(LONG), seed=LONG, instruction="new text")
            assert_holds(store, [0, 1, 2])
            if once:
                store.append(make_episode(8), seed=8, instruction="other text")
                assert_holds(store, [0, 1, 2, 8])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                again = EpisodeStore.open(inner, "a")
            assert_holds(again, [0, 1, 2, 8] if once else [0, 1, 2])
            if k == total - 1 and not once:
                assert {d.array for d in again.dropped} >= {"data/action", "meta/seed"}
                assert again.dropped[0].start == again.episode_ends[-1]
            again.append(make_episode(9, length=30), seed=9, instruction="last")
            final = EpisodeStore.open(inner)
            assert_holds_with_length(final, 30)
            assert final.dropped == ()
            assert final.instructions[-1] == "last"


def assert_holds_with_length(store: EpisodeStore, length: int) -> None:
    expected = make_episode(9, length=length)
    for key, found in store.episode(len(store) - 1).items():
        np.testing.assert_array_equal(found, expected[key])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_writing_again_removes_temporary_files(tmp_path: Path, zarr_format: int) -> None:
    path = tmp_path / "a.zarr"
    fill(path, 3, zarr_format=zarr_format)
    folders = [path, *(found for found in path.rglob("*") if found.is_dir())]
    for folder in folders:
        (folder / "0.12b648c8e41147f597018856b8160897.partial").write_bytes(b"half a chunk")
    EpisodeStore.open(path)
    assert len(list(path.rglob("*.partial"))) == len(folders)
    assert_holds(EpisodeStore.open(path, "a"), [0, 1, 2])
    assert not list(path.rglob("*.partial"))


WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
import warnings
warnings.simplefilter("ignore")
from test_store import EpisodeStore, make_episode
store = EpisodeStore.open(sys.argv[2], "a")
while True:
    seed = len(store)
    store.append(make_episode(seed), seed=seed)
    print(len(store), flush=True)
"""


@pytest.mark.slow
def test_a_killed_writer_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    fill(path, 0)
    rng = random.Random(0)
    for _ in range(4):
        arguments = [sys.executable, "-c", WRITER, str(Path(__file__).parent), str(path)]
        writer = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        told = int(writer.stdout.readline())
        time.sleep(rng.uniform(0.0, 0.15))
        writer.send_signal(signal.SIGKILL)
        told = max([told, *(int(line) for line in writer.stdout.read().split())])
        writer.wait()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            store = EpisodeStore.open(path)
        assert len(store) in (told, told + 1)
        assert_holds(store, list(range(len(store))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        EpisodeStore.open(path, "a")
    assert EpisodeStore.open(path).dropped == ()
    assert not list(path.rglob("*.partial"))
