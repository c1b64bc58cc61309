"""The episode store: round trips and clear refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError
from robopolicy.spec import ObservationSpec, Spec
from tests.data.stores import assert_holds, fill, make_episode, make_spec

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_round_trip(tmp_path: Path, zarr_format: int) -> None:
    path = tmp_path / "a.zarr"
    written = fill(path, 12, zarr_format=zarr_format, task={"name": "lift", "horizon": 50})
    for store in (written, EpisodeStore.open(path), EpisodeStore.open(path, "a")):
        assert_holds(store, list(range(12)))
        assert store.spec == make_spec()
        assert store.task == {"name": "lift", "horizon": 50}
        assert store.extra == {"state": (5,)}
        assert store.dropped == ()
        assert list(store.successes) == [1, 0] * 6
        assert store.instructions == [f"lift {i % 3}" for i in range(12)]
        assert store.lengths.sum() == store.episode_ends[-1] == len(store.read("action"))
        np.testing.assert_array_equal(store.read("pos", slice(5, 9)), store.read("pos")[5:9])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_plain_zarr_reads_what_we_write(tmp_path: Path, zarr_format: int) -> None:
    store = fill(tmp_path / "a.zarr", 5, zarr_format=zarr_format)
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="r")
    assert group.metadata.zarr_format == zarr_format
    np.testing.assert_array_equal(group["meta/episode_ends"][:], store.episode_ends)
    assert group["meta/episode_ends"].dtype == np.int64
    for key in store.keys:
        np.testing.assert_array_equal(group[f"data/{key}"][:], store.read(key))


def test_fingerprint_is_about_contents(tmp_path: Path) -> None:
    two, three = (fill(tmp_path / f"{f}.zarr", 4, zarr_format=f).fingerprint() for f in (2, 3))
    assert two == three == EpisodeStore.open(tmp_path / "2.zarr").fingerprint()
    assert fill(tmp_path / "longer.zarr", 5).fingerprint() != two
    changed = EpisodeStore.create(tmp_path / "changed.zarr", make_spec(), extra={"state": (5,)})
    for i in range(4):
        episode = make_episode(i)
        episode["pos"][0, 0] += 1e-6 * (i == 3)
        changed.append(episode)
    assert changed.fingerprint() != two


def test_fsspec_urls(tmp_path: Path) -> None:
    url = "memory://robopolicy-store-test.zarr"
    fill(url, 3)
    assert_holds(EpisodeStore.open(url), [0, 1, 2])
    fsspec.filesystem("memory").rm("/robopolicy-store-test.zarr", recursive=True)
    fill(f"file://{tmp_path}/b.zarr", 2)
    assert_holds(EpisodeStore.open(tmp_path / "b.zarr"), [0, 1])


def test_text_observations_are_the_instruction(tmp_path: Path) -> None:
    text = ObservationSpec(shape=(), dtype="str", kind="text")
    base = make_spec(image=False)
    spec = Spec(observations={**base.observations, "goal": text}, action=base.action, control_hz=5.0)
    store = EpisodeStore.create(tmp_path / "a.zarr", spec)
    episode = {k: v for k, v in make_episode(0, image=False).items() if k != "state"}
    store.append(episode, instruction="pick")
    assert EpisodeStore.open(tmp_path / "a.zarr").instructions == ["pick"]


def test_from_arrays(tmp_path: Path) -> None:
    episodes = [{"obs": RNG.random((n, 4)), "action": RNG.random((n, 2))} for n in (7, 9)]
    store = EpisodeStore.from_arrays(tmp_path / "my.zarr", episodes, control_hz=10)
    assert len(store) == 2
    assert store.spec.observations["obs"].shape == (4,)
    np.testing.assert_allclose(store.episode(1)["obs"], episodes[1]["obs"], rtol=1e-6)


def test_diffusion_policy_zarr(tmp_path: Path) -> None:
    group = zarr.create_group(str(tmp_path / "pusht.zarr"), zarr_format=2)
    arrays = {
        "img": RNG.integers(0, 255, (30, 8, 8, 3), dtype=np.uint8),
        "state": RNG.random((30, 5)).astype(np.float32),
        "action": RNG.random((30, 2)).astype(np.float32),
    }
    for key, array in arrays.items():
        group.create_array(f"data/{key}", data=array, chunks=(7, *array.shape[1:]))  # type: ignore[attr-defined]
    group.create_array("meta/episode_ends", data=np.array([12, 30]))
    with pytest.warns(UserWarning, match="control rate"):
        store = EpisodeStore.open(tmp_path / "pusht.zarr")
    store = EpisodeStore.open(tmp_path / "pusht.zarr", control_hz=5.0)
    assert store.spec.control_hz == 5.0
    assert list(store.lengths) == [12, 18]
    assert store.spec.observations["img"].kind == "image"
    assert store.instructions == ["", ""]
    assert list(store.seeds) == [-1, -1]
    assert list(store.successes) == [-1, -1]
    np.testing.assert_array_equal(store.episode(1)["state"], arrays["state"][12:])
    assert len(store.fingerprint()) == 32
    with pytest.raises(DataError, match="mode='r' only"):
        EpisodeStore.open(tmp_path / "pusht.zarr", "a", control_hz=5.0)


def broken(change: str) -> dict[str, np.ndarray]:
    episode = make_episode(1, length=10)
    match change:
        case "nan":
            episode["pos"][4, 1] = np.nan
        case "inf":
            episode["action"][9, 0] = np.inf
        case "missing":
            del episode["width"]
        case "extra":
            episode["widht"] = episode["width"]
        case "shape":
            episode["pos"] = episode["pos"][:, :2]
        case "float image":
            episode["cam"] = episode["cam"] / 255
        case "lengths":
            episode["cam"] = episode["cam"][:-1]
        case "empty":
            episode = {key: value[:0] for key, value in episode.items()}
    return episode


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nan", "episode 2: 'pos' has NaN or infinity, first in row 4"),
        ("inf", "episode 2: 'action' has NaN or infinity, first in row 9"),
        ("missing", "'width' is missing"),
        ("extra", "Unknown key 'widht'. Did you mean 'width'"),
        ("shape", r"'pos' has shape \[10, 2\]"),
        ("float image", "'cam' is float64, the store holds uint8"),
        ("lengths", "differ in length.*cam=9"),
        ("empty", "episode is empty"),
    ],
)
def test_append_refuses(change: str, message: str) -> None:
    memory = MemoryStore()
    store = fill(memory, 2)
    before = dict(memory._store_dict)
    with pytest.raises(DataError, match=message):
        store.append(broken(change))
    assert memory._store_dict.keys() == before.keys()
    assert_holds(EpisodeStore.open(memory), [0, 1])


def test_open_finds_nan(tmp_path: Path) -> None:
    store = fill(tmp_path / "a.zarr", 3)
    row = int(store.episode_ends[0]) + 2
    zarr.open_group(str(tmp_path / "a.zarr"))["data/pos"][row, 0] = np.nan
    with pytest.raises(
        DataError, match=f"'pos' has NaN or infinity in episode 1, first in its row 2 .row {row}"
    ):
        EpisodeStore.open(tmp_path / "a.zarr")


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("key", ["pos", "cam"])
def test_damaged_files_are_named(tmp_path: Path, key: str, zarr_format: int) -> None:
    path = tmp_path / "a.zarr"
    fill(path, 6, zarr_format=zarr_format)
    chunk = max(p for p in (path / "data" / key).iterdir() if p.name[-2:] in (".0", "c0"))
    content = chunk.read_bytes()
    for cut in (0, 10, len(content) // 2, len(content) - 1):
        chunk.write_bytes(content[:cut])
        with pytest.raises(DataError, match=f"{key}/{chunk.name}.*truncated"):
            EpisodeStore.open(path)
    chunk.unlink()
    with pytest.raises(
        DataError, match=f"chunk files of 'data/{key}' are missing, first data/{key}/{chunk.name}"
    ):
        EpisodeStore.open(path)
    chunk.write_bytes(content)
    store = EpisodeStore.open(path)
    chunk.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=f"chunk file data/{key}/{chunk.name}"):
        store.read(key)


def test_missing_chunks_of_others_warn(tmp_path: Path) -> None:
    group = zarr.create_group(str(tmp_path / "o.zarr"), zarr_format=2)
    for key in ("obs", "action"):
        group.create_array(f"data/{key}", data=np.ones((20, 2), np.float32), chunks=(5, 2))
    group.create_array("meta/episode_ends", data=np.array([20]))
    (tmp_path / "o.zarr" / "data" / "obs" / "2.0").unlink()
    with pytest.warns(UserWarning, match="absent and read as zeros.*data/obs/2.0"):
        EpisodeStore.open(tmp_path / "o.zarr", control_hz=10)


def test_open_names_structural_faults(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        EpisodeStore.open(tmp_path / "none.zarr")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="not an episode store"):
        EpisodeStore.open(tmp_path / "empty")
    path = tmp_path / "a.zarr"
    fill(path, 2)
    with pytest.raises(DataError, match=r"exists already\. Pass overwrite=True"):
        fill(path, 1)
    attributes = json.loads((path / ".zattrs").read_text())
    attributes["robopolicy"]["format"] = 99
    (path / ".zattrs").write_text(json.dumps(attributes))
    with pytest.raises(DataError, match=r"format 99.*newer"):
        EpisodeStore.open(path)
    fill(path, 2, overwrite=True)
    zarr.open_group(str(path))["data/width"].resize((4,))
    with pytest.raises(DataError, match="'data/width' has 4 rows, its episodes need"):
        EpisodeStore.open(path)
    del zarr.open_group(str(path))["data/width"]
    with pytest.raises(DataError, match="'data/width' is missing"):
        EpisodeStore.open(path)


def test_overwrite_spares_other_directories(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="not a zarr group"):
        EpisodeStore.create(tmp_path / "home", make_spec(), overwrite=True)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"


def test_store_needs_no_torch() -> None:
    code = "import sys, robopolicy.data.store; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
