"""Conversions as the command makes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robopolicy.data.convert import ConvertConfig, convert
from robopolicy.data.importers import import_hdf5
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError, DataError
from robopolicy.evaluation.collect import collect
from tests.commands import failure, run
from tests.data.test_importers import write_robomimic
from tests.toy_env import toy_spec, toy_task


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    collect(toy_task(noise=0.2), tmp_path / "toy.zarr", episodes=4, workers=0, progress=False)
    return EpisodeStore.open(tmp_path / "toy.zarr")


def test_there_and_back_again_loses_nothing(store: EpisodeStore, tmp_path: Path) -> None:
    convert(ConvertConfig(source=store.where))
    line = {"source": f"{tmp_path}/toy.hdf5", "task": toy_task().to_dict()}
    back = convert(ConvertConfig(**line, out=f"{tmp_path}/new/back.zarr", observations=("goal", "position")))
    assert back.spec == toy_spec()
    assert back.task == toy_task().to_dict()
    assert list(back.seeds) == list(store.seeds)
    assert list(back.successes) == list(store.successes)
    assert back.instructions == store.instructions
    for key in store.keys:
        np.testing.assert_array_equal(back.read(key), store.read(key))


def test_zarr_to_zarr_keeps_seeds_and_success(store: EpisodeStore, tmp_path: Path) -> None:
    copy = convert(ConvertConfig(source=store.where, out=f"{tmp_path}/copy.zarr"))
    assert list(copy.seeds) == list(store.seeds)
    assert list(copy.successes) == [1] * 4
    assert copy.fingerprint() == store.fingerprint()


def test_the_command_replays(store: EpisodeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("convert", f"source={store.where}", f"out={tmp_path}/b.zarr", "replay=true", "workers=0")
    printed = capsys.readouterr().out
    assert "b.zarr: 4 episodes" in printed
    assert "4 of 4 episodes succeed again" in printed
    assert "inspect_data.py" in printed
    code, message = failure(capsys, "convert", f"source={store.where}", f"out={tmp_path}/b.zarr")
    assert code == 1
    assert "overwrite=true" in message


def test_a_file_of_another_task_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    write_robomimic(tmp_path / "a.hdf5")
    with pytest.raises(DataError, match=r"actions have 7 dimensions, the task's have 2 \(x, y\)"):
        import_hdf5(tmp_path / "a.hdf5", tmp_path / "a.zarr", like=toy_spec())
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": "a.hdf"}, r"Unknown suffix '.hdf'. Did you mean '.hdf5'"),
        ({"source": "a.hdf5", "out": "b.h5"}, "Both a.hdf5 and b.h5 are HDF5"),
        ({"source": "a.zarr", "out": "./a.zarr/"}, "over itself"),
        ({"source": "a.zarr", "filter": "train"}, "HDF5 sources"),
    ],
)
def test_what_cannot_be_converted(values: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ConvertConfig(**values)  # type: ignore[arg-type]
