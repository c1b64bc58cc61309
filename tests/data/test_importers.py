"""HDF5 both ways and Diffusion Policy zarrs, on files in the published layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from robopolicy.data import exporters
from robopolicy.data.exporters import export_hdf5
from robopolicy.data.importers import Ledger, import_hdf5, import_zarr
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError

LENGTHS = (5, 7, 4)
ENV_ARGS = {"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20, "robots": ["Panda"]}}


def write_robomimic(path: Path, image: bool = True) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    written = {}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = sum(LENGTHS)
        data.attrs["env_args"] = json.dumps(ENV_ARGS)
        for index, n in enumerate(LENGTHS):
            name = f"demo_{index * 5}"  # demo_10 sorts before demo_5 as text
            arrays = {
                "obs/object": rng.normal(size=(n, 10)),
                "obs/robot0_eef_pos": rng.normal(size=(n, 3)),
                "actions": rng.uniform(-1, 1, (n, 7)),
                "states": rng.normal(size=(n, 32)),
                "rewards": (np.arange(n) == n - 1).astype(np.float64),
                "dones": (np.arange(n) == n - 1).astype(np.int64),
            }
            if image:
                arrays["obs/agentview_image"] = rng.integers(0, 255, (n, 8, 8, 3), dtype=np.uint8)
            demo = data.create_group(name)
            demo.attrs["num_samples"] = n
            for key, array in arrays.items():
                demo.create_dataset(key, data=array)
            written[name] = arrays
        file.create_dataset("mask/train", data=np.array([b"demo_0", b"demo_10"]))
    return written


def test_import_robomimic(tmp_path: Path) -> None:
    written = write_robomimic(tmp_path / "a.hdf5")
    store = import_hdf5(tmp_path / "a.hdf5", tmp_path / "a.zarr", instruction="lift")
    assert list(store.lengths) == list(LENGTHS)
    assert store.spec.control_hz == 20.0
    assert set(store.spec.observations) == {"object", "robot0_eef_pos", "agentview_image"}
    assert store.origin["env_args"] == ENV_ARGS
    assert store.instructions == ["lift"] * 3
    for index, name in enumerate(["demo_0", "demo_5", "demo_10"]):
        episode = store.episode(index)
        np.testing.assert_array_equal(episode["action"], written[name]["actions"])  # float64 stays
        np.testing.assert_array_equal(episode["states"], written[name]["states"])
        np.testing.assert_array_equal(episode["agentview_image"], written[name]["obs/agentview_image"])
        np.testing.assert_array_equal(episode["object"], written[name]["obs/object"].astype(np.float32))


def test_filter_and_choice_of_keys(tmp_path: Path) -> None:
    write_robomimic(tmp_path / "a.hdf5")
    store = import_hdf5(tmp_path / "a.hdf5", tmp_path / "a.zarr", filter_key="train", obs_keys=["object"])
    assert list(store.lengths) == [5, 4]
    assert list(store.spec.observations) == ["object"]
    with pytest.raises(DataError, match="Unknown filter key 'valid'"):
        import_hdf5(tmp_path / "a.hdf5", tmp_path / "b.zarr", filter_key="valid")
    with pytest.raises(DataError, match="Unknown observation 'objects'"):
        import_hdf5(tmp_path / "a.hdf5", tmp_path / "b.zarr", obs_keys=["objects"])


def test_export_is_read_back_and_imports_again(tmp_path: Path) -> None:
    write_robomimic(tmp_path / "a.hdf5")
    store = import_hdf5(tmp_path / "a.hdf5", tmp_path / "a.zarr")
    export_hdf5(store, tmp_path / "b.hdf5")
    with h5py.File(tmp_path / "b.hdf5") as file:
        # What robomimic's SequenceDataset and get_env_metadata_from_dataset rely on.
        names = sorted(file["data"], key=lambda name: int(name[5:]))
        assert names == ["demo_0", "demo_1", "demo_2"]
        assert json.loads(file["data"].attrs["env_args"]) == ENV_ARGS
        assert file["data"].attrs["total"] == sum(LENGTHS)
        for name, n in zip(names, LENGTHS, strict=True):
            demo = file["data"][name]
            assert demo.attrs["num_samples"] == n
            assert {len(demo[k]) for k in ("actions", "rewards", "dones", "states", "obs/object")} == {n}
    again = import_hdf5(tmp_path / "b.hdf5", tmp_path / "b.zarr")
    assert again.fingerprint() == store.fingerprint()
    with pytest.raises(DataError, match="exists already"):
        export_hdf5(store, tmp_path / "b.hdf5")


def test_export_fills_in_what_a_store_lacks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    episodes = [{"obs": rng.random((n, 2)), "action": rng.random((n, 3))} for n in (4, 6)]
    store = EpisodeStore.from_arrays(tmp_path / "a.zarr", episodes, control_hz=10)
    with h5py.File(export_hdf5(store, tmp_path / "a.hdf5")) as file:
        assert list(file["data/demo_0/dones"]) == [0, 0, 0, 1]
        assert not np.any(file["data/demo_1/rewards"])
        assert json.loads(file["data"].attrs["env_args"])["env_kwargs"]["control_freq"] == 10


def test_an_export_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EpisodeStore.from_arrays(tmp_path / "a.zarr", [{"o": np.ones((4, 1)), "action": np.ones((4, 1))}],
                                     control_hz=1)  # fmt: skip
    read = exporters._file_ledger

    def damaged(path: Path) -> Ledger:
        with h5py.File(path, "r+") as file:
            file["data/demo_0/actions"][2] = 7.0
        return read(path)

    monkeypatch.setattr(exporters, "_file_ledger", damaged)
    with pytest.raises(DataError, match="range of 'actions' changed"):
        export_hdf5(store, tmp_path / "a.hdf5")
    assert list(tmp_path.glob("*.hdf5*")) == []


def break_file(path: Path, change: str) -> None:
    with h5py.File(path, "r+") as file:
        match change:
            case "no obs":
                for name in list(file["data"]):
                    del file["data"][name]["obs"]
            case "num_samples":
                file["data/demo_5"].attrs["num_samples"] = 9
            case "total":
                file["data"].attrs["total"] = 99
            case "key":
                del file["data/demo_5/obs/object"]
            case "nan":
                file["data/demo_5/actions"][3, 2] = np.nan
            case "no demos":
                del file["data"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no obs", "no observations.*robomimic.scripts.dataset_states_to_obs"),
        ("num_samples", r"demo_5: .* has 7 steps, num_samples says 9"),
        ("total", "'total' says 99 steps, its demos have 16"),
        ("key", "demo_5 has no 'obs/object'"),
        ("nan", "episode 1: 'action' has NaN or infinity, first in row 3"),
        ("no demos", "no demonstrations"),
    ],
)
def test_import_refuses(tmp_path: Path, change: str, message: str) -> None:
    write_robomimic(tmp_path / "a.hdf5", image=False)
    break_file(tmp_path / "a.hdf5", change)
    with pytest.raises(DataError, match=message):
        import_hdf5(tmp_path / "a.hdf5", tmp_path / "a.zarr")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        import_hdf5(tmp_path / "none.hdf5", tmp_path / "a.zarr")
    (tmp_path / "text.hdf5").write_text("hello")
    with pytest.raises(DataError, match="not a readable HDF5"):
        import_hdf5(tmp_path / "text.hdf5", tmp_path / "a.zarr")


def test_ledger_names_what_differs() -> None:
    def ledger(*episodes: dict[str, Any]) -> Ledger:
        result = Ledger()
        for episode in episodes:
            result.add({key: np.asarray(value) for key, value in episode.items()})
        return result

    one = ledger({"a": [1.0, 2.0]}, {"a": [0.0]})
    one.compare(ledger({"a": [2.0, 1.0]}, {"a": [0.0]}), "x")
    for other, message in [
        (ledger({"a": [1.0, 2.0]}), "2 episodes went in, 1 came out"),
        (ledger({"a": [1.0, 2.0]}, {"a": [0.0, 0.0]}), "episode 1 had 1 steps, has 2"),
        (ledger({"b": [1.0, 2.0]}, {"b": [0.0]}), "'a' went in and did not come out"),
        (ledger({"a": [1.0, 3.0]}, {"a": [0.0]}), "range of 'a' changed"),
    ]:
        with pytest.raises(DataError, match=message):
            one.compare(other, "x")


def test_import_diffusion_policy_zarr(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    group = zarr.create_group(str(tmp_path / "dp.zarr"), zarr_format=2)
    state, action = rng.random((20, 5)), rng.random((20, 2)).astype(np.float32)
    group.create_array("data/state", data=state)
    group.create_array("data/action", data=action)
    group.create_array("meta/episode_ends", data=np.array([8, 20]))
    store = import_zarr(tmp_path / "dp.zarr", tmp_path / "ours.zarr", control_hz=10.0)
    np.testing.assert_array_equal(store.read("state"), state.astype(np.float32))
    np.testing.assert_array_equal(store.read("action"), action)
    assert list(store.episode_ends) == [8, 20]
