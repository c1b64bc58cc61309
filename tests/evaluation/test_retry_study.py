from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robopolicy.data.store import EpisodeStore
from robopolicy.env import Grasp
from robopolicy.errors import ConfigError, MissingCapability
from robopolicy.evaluation.collect import collect
from robopolicy.evaluation.retry_study import RetryStudyConfig, run_study
from robopolicy.learning.checkpoint import save_checkpoint
from robopolicy.policies.policy import Provenance
from tests.commands import run
from tests.policies.two_modes import make
from tests.toy_env import ToyEnv, toy_spec, toy_task

TASK = toy_task(horizon=30)


def every_ten_steps(env: ToyEnv, episode: Mapping[str, np.ndarray]) -> Grasp:
    """Fingers close for the second half of every ten steps, and hold nothing."""
    steps = np.arange(len(episode["position"]))
    nowhere = np.zeros(len(steps))
    return Grasp(opening=np.where(steps % 10 < 5, 0.08, 0.0), distance=nowhere, height=nowhere)


@pytest.fixture
def checkpoints(tmp_path: Path) -> list[str]:
    paths = [f"runs/{name}" for name in ("diffusion/seed0", "diffusion/seed1", "gmm/seed0")]
    for path in paths:
        policy = make("diffusion", toy_spec(), sampler={"name": "ddim", "steps": 2})
        policy.provenance = Provenance(task=TASK)
        save_checkpoint(tmp_path / path, policy)
    return [f"{tmp_path}/{path}" for path in paths]


def settings(checkpoints: list[str], **changes: Any) -> RetryStudyConfig:
    small = {"episodes": 4, "lanes": 2, "workers": 0, "block": "select"}
    return RetryStudyConfig(checkpoints=tuple(checkpoints), **{**small, **changes})


def test_policies_and_demonstrations_are_counted_and_written(
    checkpoints: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ToyEnv, "grasp", every_ten_steps, raising=False)
    collect(TASK, tmp_path / "toy.zarr", episodes=3, lanes=1, workers=0)
    run(
        "retries", f"checkpoints=[{','.join(checkpoints)}]", f"data={tmp_path}/toy.zarr", "episodes=4",
        "lanes=2", "workers=0", "block=select", "perturb=push", f"out={tmp_path}/deep/retries.json",
    )  # fmt: skip
    found = json.loads((tmp_path / "deep" / "retries.json").read_text())
    assert list(found["policies"]) == ["demonstrations", "diffusion", "gmm"]
    assert [row["training seeds"] for row in found["policies"].values()] == [1, 2, 1]
    assert found["perturb"] == {"name": "push", "level": 0.5}
    assert found["config"]["episodes"] == 4
    assert {"commit", "machine", "versions", "date", "wall_seconds"} <= found.keys()
    assert found["policies"]["diffusion"]["success"]["of"] == 8
    for rows in found["episodes"]["diffusion"]:
        assert [row["seed"] for row in rows] == [2_000_000 + i for i in range(4)]
    failed = [row for row in found["episodes"]["gmm"][0] if not row["success"]]
    assert failed
    assert [a["start"] for a in failed[0]["attempts"]] == [4, 14, 24]
    lengths = EpisodeStore.open(tmp_path / "toy.zarr").lengths.tolist()
    assert [row["steps"] for row in found["episodes"]["demonstrations"][0]] == lengths
    assert "| toy | push 0.5 | diffusion | 2 |" in capsys.readouterr().out


def test_attempts_after_success_do_not_count(
    checkpoints: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToyEnv, "grasp", every_ten_steps, raising=False)
    easy = replace(TASK, env={"name": "toy", "reach": 0.8}, success_hold=20)
    policy = make("diffusion", toy_spec(), sampler={"name": "ddim", "steps": 2})
    policy.provenance = Provenance(task=easy)
    save_checkpoint(tmp_path / "easy", policy)
    _, found = run_study(settings([f"{tmp_path}/easy"], out=f"{tmp_path}/easy.json", episodes=8))
    early = [row for row in found["episodes"][f"{tmp_path}/easy"][0] if row["success"] and row["steps"] <= 5]
    assert early
    assert not any(row["attempts"] for row in early)


def test_what_cannot_be_counted_is_refused_before_anything_is_played(
    checkpoints: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robopolicy.evaluation.retry_study.evaluate", None)
    with pytest.raises(MissingCapability, match="ToyEnv does not tell how its gripper"):
        run_study(settings(checkpoints))
    monkeypatch.setattr(ToyEnv, "grasp", every_ten_steps, raising=False)
    with pytest.raises(MissingCapability, match="under noise"):
        run_study(settings(checkpoints, perturb={"name": "noise", "level": 0.1}))
    other = make("diffusion", toy_spec(), sampler={"name": "ddim", "steps": 2})
    other.provenance = Provenance(task=toy_task(horizon=7))
    save_checkpoint(tmp_path / "other", other)
    with pytest.raises(ConfigError, match="one task"):
        run_study(settings([*checkpoints, f"{tmp_path}/other"]))


@pytest.mark.parametrize(
    "bad", [{"checkpoints": ()}, {"checkpoints": ("a", "a")}, {"episodes": 0}, {"block": "blok"}]
)
def test_studies_that_make_no_sense_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="retries"):
        RetryStudyConfig(**{"checkpoints": ("a",), **bad})
