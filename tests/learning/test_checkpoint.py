from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from robopolicy import load
from robopolicy.errors import CheckpointError
from robopolicy.learning.checkpoint import read_tensors, save_checkpoint
from tests.policies.test_diffusion import make_policy, observation

GOLDEN = Path(__file__).parents[1] / "golden" / "diffusion"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "checkpoint", make_policy())
    return tmp_path / "checkpoint"


def edit_tensors(directory: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(directory / "policy.safetensors")
    for name, value in changes.items():
        key = name.replace("__", ".")
        tensors.pop(key)
        if value is not None:
            tensors[key] = value
    save_file(tensors, directory / "policy.safetensors")


def test_round_trip_is_exact(saved: Path) -> None:
    policy, loaded = make_policy(), load(saved)
    noise = torch.randn(2, 1, *policy.noise_shape)
    expected = policy.sample(observation(2), noise=noise).actions
    np.testing.assert_array_equal(loaded.sample(observation(2), noise=noise).actions, expected)
    assert loaded.spec == policy.spec
    assert loaded.config == policy.config


def test_a_checkpoint_that_is_replaced_stays_whole_until_the_new_one_is(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no space left")

    before = (saved / "policy.safetensors").read_bytes()
    monkeypatch.setattr("robopolicy.learning.checkpoint.save_file", refuse)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(saved, make_policy())
    assert (saved / "policy.safetensors").read_bytes() == before
    monkeypatch.undo()
    other = make_policy()
    with torch.no_grad():
        next(other.parameters()).add_(1)
    save_checkpoint(saved, other)
    assert (saved / "policy.safetensors").read_bytes() != before
    load(saved)
    assert sorted(path.name for path in saved.parent.iterdir() if "partial" not in path.name) == [
        "checkpoint"
    ]


def test_a_missing_tensor_is_named(saved: Path) -> None:
    edit_tensors(saved, network__inlet__bias=None)
    with pytest.raises(CheckpointError, match=r"network\.inlet\.bias is missing"):
        load(saved)


def test_another_shape_is_named(saved: Path) -> None:
    edit_tensors(saved, network__inlet__bias=torch.zeros(3))
    with pytest.raises(CheckpointError, match=r"network.inlet.bias has shape \[3\], the policy needs \[64\]"):
        load(saved)


def test_a_changed_codec_is_noticed(saved: Path) -> None:
    edit_tensors(saved, codec__action_scale=torch.full((2,), 2.0, dtype=torch.float64))
    with pytest.raises(CheckpointError, match="codec statistics"):
        load(saved)


def test_a_pickle_is_refused_unread(saved: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, ("raise SystemExit('executed')",))

    (saved / "policy.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="pickle"):
        load(saved)
    torch.save({}, saved / "policy.safetensors")
    with pytest.raises(CheckpointError, match="pickle"):
        load(saved)


def test_a_truncated_file_is_refused(saved: Path) -> None:
    data = (saved / "policy.safetensors").read_bytes()
    (saved / "policy.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(saved)


def test_no_safetensors_file_is_taken_for_a_pickle(tmp_path: Path) -> None:
    """A pickle begins with 0x80; so does a safetensors file whose header is that long."""
    path = tmp_path / "odd.safetensors"
    for padding in range(200):
        save_file({"x" * (padding + 1): torch.zeros(1)}, path)
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    assert read_tensors(path)


def test_a_newer_format_says_what_to_install(saved: Path) -> None:
    description = json.loads((saved / "policy.json").read_text())
    description.update(format=99, library="9.9.9")
    (saved / "policy.json").write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match=r"Install robopolicy >= 9\.9\.9"):
        load(saved)


def test_an_older_format_is_refused_rather_than_read_wrongly(saved: Path) -> None:
    description = json.loads((saved / "policy.json").read_text())
    (saved / "policy.json").write_text(json.dumps({**description, "format": 1}))
    with pytest.raises(CheckpointError, match=r"format 1.*train the policy again"):
        load(saved)


def test_wrong_paths_say_what_is_there(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_checkpoint(tmp_path / "runs" / name / "checkpoints" / "step-00000001", make_policy())
    with pytest.raises(CheckpointError, match="No such checkpoint"):
        load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="2 runs"):
        load(tmp_path / "runs")
    assert load(tmp_path / "runs" / "a").provenance.step == 0


def test_the_golden_checkpoint_acts_as_ever() -> None:
    policy = load(GOLDEN)
    expected = np.load(GOLDEN / "expected.npz")
    seen = {"state": expected["state"], "goal": expected["goal"]}
    actions = policy.sample(seen, noise=expected["noise"]).actions
    np.testing.assert_allclose(actions, expected["actions"], rtol=0, atol=2e-6)
