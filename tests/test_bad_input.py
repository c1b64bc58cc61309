"""What a user gets to read when something is wrong, where parts of the library meet."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from safetensors.torch import load_file, save_file
from zarr.storage import LocalStore

from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError
from robopolicy.evaluation.collect import collect
from robopolicy.learning.checkpoint import find_checkpoint, load, save_checkpoint
from robopolicy.learning.log import read_metrics
from robopolicy.seeding import episode_seeds
from tests.commands import TINY, failure, run
from tests.toy_env import toy_task

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store and a run trained on it, to be copied."""
    home = tmp_path_factory.mktemp("made")
    collect(toy_task(noise=0.1), home / "toy.zarr", episodes=6, workers=0, progress=False)
    run("train", f"data={home}/toy.zarr", f"out={home}/run", "trainer.steps=3", *TINY)
    return home


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "toy.zarr", tmp_path / "toy.zarr"))


@pytest.fixture
def trained(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "run", tmp_path / "run"))


def nan_action(path: Path) -> None:
    zarr.open_group(str(path))["data/action"][12, 1] = np.nan


def unequal_lengths(path: Path) -> None:
    zarr.open_group(str(path))["data/goal"].resize((9, 2))


def damaged_header(path: Path) -> None:
    header = path / ".zattrs"
    header.write_text(header.read_text()[:200])


def a_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_bytes(b"HDF")


def missing_key(path: Path) -> None:
    shutil.rmtree(path / "data" / "position")


def truncated_chunk(path: Path) -> None:
    chunk = path / "data" / "action" / "0.0"
    chunk.write_bytes(chunk.read_bytes()[:20])


@pytest.mark.parametrize("script", ["train", "inspect_data"])
@pytest.mark.parametrize(
    ("damage", "fragments"),
    [
        (nan_action, ["'action' has NaN or infinity in episode", "row 12 of data/action"]),
        (unequal_lengths, ["'data/goal' has 9 rows, its episodes need"]),
        (missing_key, ["array 'data/position' is missing. Found: action, goal"]),
        (damaged_header, [".zattrs is damaged", "Copy it again"]),
        (a_file, ["is a file, not a zarr directory; scripts/convert.py imports HDF5"]),
        (truncated_chunk, ["chunk file data/action/0.0 (20 bytes, ", " expected) is truncated"]),
    ],
)
def test_a_damaged_store(
    store: Path,
    tmp_path: Path,
    capsys: Capture,
    script: str,
    damage: Callable[[Path], None],
    fragments: list[str],
) -> None:
    damage(store)
    code, message = failure(capsys, script, f"data={store}", f"out={tmp_path}/out")
    assert code == 1
    assert str(store) in message
    assert all(fragment in message for fragment in fragments), message
    assert not (tmp_path / "out").exists()


def test_episodes_shorter_than_a_window_are_padded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    episodes = [{"obs": rng.random((n, 2)), "action": rng.random((n, 2))} for n in (1, 2, 3, 5)]
    EpisodeStore.from_arrays(tmp_path / "short.zarr", episodes, control_hz=10)
    run("train", f"data={tmp_path}/short.zarr", f"out={tmp_path}/out", "trainer.steps=3", *TINY)
    assert load(tmp_path / "out").provenance.step == 3
    losses = [row["loss"] for row in read_metrics(tmp_path / "out" / "metrics.jsonl") if "loss" in row]
    assert losses
    assert all(map(math.isfinite, losses))


@pytest.mark.parametrize("room", [100, 117, 160])
@pytest.mark.filterwarnings("ignore:.*did not finish")
def test_a_disk_that_fills_during_collection_loses_no_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    task, path, left = toy_task(noise=0.1), tmp_path / "a.zarr", room
    write = LocalStore.set

    async def full(self: LocalStore, *arguments: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        await write(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "set", full)
        with pytest.raises(
            DataError, match=r"No space left on device.*\d+ episodes .* committed and intact"
        ) as told:
            collect(task, path, episodes=20, workers=0, progress=False)
    kept = len(EpisodeStore.open(path))
    assert 0 < kept < 20
    assert f"{kept} episodes" in str(told.value)
    collect(task, path, episodes=20, workers=0, progress=False)
    collect(task, tmp_path / "b.zarr", episodes=20, workers=0, progress=False)
    assert EpisodeStore.open(path).fingerprint() == EpisodeStore.open(tmp_path / "b.zarr").fingerprint()


def test_settings_that_fail_leave_nothing_in_the_way(tmp_path: Path, capsys: Capture, store: Path) -> None:
    with pytest.raises(ValueError, match="Unknown mode 'wavy'"):
        collect(toy_task(mode="wavy"), tmp_path / "a.zarr", episodes=1, workers=1, progress=False)
    assert collect(toy_task(), tmp_path / "a.zarr", episodes=1, workers=0, progress=False).kept == 1
    code, message = failure(
        capsys, "train", f"data={store}", f"out={tmp_path}/out", *TINY, "policy.action_horizon=8"
    )
    assert code == 1
    assert "pred_horizon=8 is too short: obs_horizon=2 and action_horizon=8 need at least 9" in message
    run("train", f"data={store}", f"out={tmp_path}/out", *TINY, "trainer.steps=1")


def test_a_chunk_that_the_network_cannot_halve(store: Path, tmp_path: Path, capsys: Capture) -> None:
    line = [f"data={store}", f"out={tmp_path}/out", "network=unet", "policy.pred_horizon=18"]
    code, message = failure(capsys, "train", *line)
    assert code == 1
    assert "pred_horizon 18 must be divisible by 4" in message


def edit(run_directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = find_checkpoint(run_directory) / "policy.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def a_missing_tensor(run_directory: Path) -> None:
    edit(run_directory, lambda tensors: tensors.pop("network.inlet.bias"))


def another_shape(run_directory: Path) -> None:
    edit(run_directory, lambda tensors: tensors.update({"network.inlet.bias": torch.zeros(5)}))


def a_changed_codec(run_directory: Path) -> None:
    edit(run_directory, lambda tensors: tensors["codec.action_scale"].mul_(2))


def a_pickle(run_directory: Path) -> None:
    (find_checkpoint(run_directory) / "policy.safetensors").write_bytes(pickle.dumps({"weights": 1}))


def an_incomplete_description(run_directory: Path) -> None:
    path = find_checkpoint(run_directory) / "policy.json"
    description = json.loads(path.read_text())
    del description["codec_digest"]
    path.write_text(json.dumps(description))


def an_unknown_policy(run_directory: Path) -> None:
    path = find_checkpoint(run_directory) / "policy.json"
    description = json.loads(path.read_text())
    description["policy"]["name"] = "difusion"
    path.write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("damage", "fragments"),
    [
        (
            a_missing_tensor,
            ["policy.safetensors does not fit its policy.json", "network.inlet.bias is missing"],
        ),
        (another_shape, ["network.inlet.bias has shape [5], the policy needs [32]"]),
        (a_changed_codec, ["codec statistics", "Restore both files"]),
        (a_pickle, ["is a pickle, not safetensors", "refused"]),
        (an_incomplete_description, ["policy.json lacks 'codec_digest'"]),
        (an_unknown_policy, ["Unknown policy 'difusion'. Did you mean 'diffusion'"]),
    ],
)
def test_a_damaged_checkpoint(
    trained: Path, capsys: Capture, damage: Callable[[Path], None], fragments: list[str]
) -> None:
    damage(trained)
    code, message = failure(capsys, "evaluate", f"checkpoint={trained}", "workers=0", "video=0")
    assert code == 1
    assert all(fragment in message for fragment in fragments), message
    assert str(trained) in message


@pytest.mark.parametrize(
    ("script", "argument", "fragments"),
    [
        ("collect", "task=lfit", ["Unknown task 'lfit'. Did you mean 'lift'", "can, ", "square, "]),
        (
            "train",
            "trainer.stepz=3",
            ["Unknown key of trainer 'stepz'. Did you mean 'steps'", "batch_size, "],
        ),
        ("evaluate", "chekpoint=a", ["Unknown key 'chekpoint'. Did you mean 'checkpoint'", "episodes, "]),
        ("inspect_data", "video=true", ["data has no default: give data="]),
        ("convert", "surce=a.hdf5", ["Unknown key 'surce'. Did you mean 'source'"]),
    ],
)
def test_a_wrong_command_line(capsys: Capture, script: str, argument: str, fragments: list[str]) -> None:
    code, message = failure(capsys, script, argument)
    assert code == 2
    assert all(fragment in message for fragment in fragments), message
    assert "--help" in message


def test_values_that_cannot_be(store: Path, tmp_path: Path, capsys: Capture) -> None:
    for setting, fragment in (
        ("codec.action=minmx", "Unknown choice 'minmx'. Did you mean 'minmax'"),
        ("trainer.steps=many", "train.trainer.steps must be int, got 'many' (str)"),
        ("device=gpu", "device='gpu' is not a device: use auto, cpu, cuda"),
        ("device=cuda:77", "CUDA devices here"),
        ("observations=[goals]", "Unknown observation 'goals'. Did you mean 'goal'"),
        ("demonstrations=50", "50 training episodes are asked for"),
    ):
        code, message = failure(capsys, "train", f"data={store}", f"out={tmp_path}/out", setting)
        assert code == 1
        assert fragment in message
    assert not (tmp_path / "out").exists()


def test_a_run_directory_that_cannot_be_used(
    store: Path, trained: Path, tmp_path: Path, capsys: Capture
) -> None:
    line = [f"data={store}", "trainer.steps=3", *TINY]
    config = trained / "config.json"
    config.write_text(config.read_text()[:50])
    code, message = failure(capsys, "train", *line, f"out={trained}")
    assert code == 1
    assert f"{config} is damaged" in message
    code, message = failure(capsys, "train", *line, f"out={config}/below")
    assert code == 1
    assert "Not a directory" in message


def test_no_demonstrations_yet(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, message = failure(capsys, "train", "task=lift")
    assert code == 1
    assert "no demonstrations at data/lift.zarr" in message
    assert "collect.py task=lift" in message


@pytest.mark.sim
def test_a_checkpoint_of_another_task_names_every_difference(trained: Path, capsys: Capture) -> None:
    line = [f"checkpoint={trained}", "task=pusher", "workers=0", "video=0", "episodes=1"]
    code, message = failure(capsys, "evaluate", *line)
    assert code == 1
    for fragment in (
        "observation 'position': missing (given: state)",
        "observation 'goal': missing",
        "action: names wanted ('x', 'y'), given ",
        "action: representation wanted 'toy_delta'",
        "action: low wanted (-1.0, -1.0)",
        "control_hz: wanted 10, given 20",
    ):
        assert fragment in message, message


def test_report_seeds_that_were_trained_on_are_refused(trained: Path, capsys: Capture) -> None:
    policy = load(trained)
    seeds = episode_seeds("report", 3)
    policy.provenance = dataclasses.replace(policy.provenance, used_seeds=(seeds[1],))
    save_checkpoint(find_checkpoint(trained), policy)
    line = [f"checkpoint={trained}", "workers=0", "video=0", "episodes=3"]
    code, message = failure(capsys, "evaluate", *line)
    assert code == 1
    assert f"1 evaluation seeds were used in training or choosing this policy: {seeds[1]}" in message
    run("evaluate", *line, "offset=50", "lanes=3")
