from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import Windows
from robopolicy.errors import ConfigError, MissingCapability
from robopolicy.evaluation.collect import collect
from robopolicy.learning.checkpoint import save_checkpoint
from robopolicy.policies.policy import Provenance
from tests.commands import run
from tests.policies.two_modes import make
from tests.toy_env import toy_spec, toy_task

TASK = toy_task(horizon=12)


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    collect(TASK, tmp_path / "toy.zarr", episodes=3, lanes=1, workers=0)
    seeds = EpisodeStore.open(tmp_path / "toy.zarr").seeds.tolist()
    assert len(seeds) == 3
    for name, used in (("energy_denoising", seeds[:2]), ("diffusion", seeds[:2]), ("stranger", [7])):
        policy = make(
            "diffusion" if name == "diffusion" else "energy_denoising",
            toy_spec(),
            sampler={"name": "ddim", "steps": 2},
        )
        policy.provenance = Provenance(task=TASK, used_seeds=tuple(used))
        save_checkpoint(tmp_path / name, policy)
    return [
        f"checkpoint={tmp_path}/energy_denoising", f"reference={tmp_path}/diffusion",
        f"data={tmp_path}/toy.zarr", f"out={tmp_path}/checks", "episodes=3", "lanes=3",
        "workers=0", "block=select",
    ]  # fmt: skip


def test_every_signal_is_measured_and_written_with_what_it_was_made_from(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("energy_signal", *words)
    (path,) = (tmp_path / "checks").glob("*.json")
    found = json.loads(path.read_text())
    assert path.name == f"energy_signal_{TASK.name}_energy_denoising.json"
    assert found["config"]["episodes"] == 3
    assert {"commit", "machine", "versions", "date"} <= found.keys()
    names = {"energy", "elapsed time", "nearest training data", "variance of 16 samples", "denoising loss"}
    assert found["biased readings"].keys() == names
    assert found["biased readings"]["elapsed time"]["value"] == 0.5
    if 0 < found["success"]["value"] < 1:
        assert found["failing, matched times"].keys() == names
    else:
        assert "both are needed" in found["failing, matched times"]
    assert "nearest training data" in capsys.readouterr().out


def test_the_nearest_data_are_those_the_policy_was_trained_on(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    monkeypatch.setattr(
        "robopolicy.data.windows.Windows",
        lambda *args, episodes, _inner=Windows, **kwargs: (
            seen.append(episodes),
            _inner(*args, episodes=episodes, **kwargs),
        )[1],
    )
    run("energy_signal", *words)
    assert seen == [[0, 1]]


def test_what_cannot_be_studied_is_refused(words: list[str], tmp_path: Path) -> None:
    from robopolicy.evaluation.energy_study import EnergyStudyConfig, run_study

    config = EnergyStudyConfig(
        checkpoint=f"{tmp_path}/energy_denoising",
        reference=f"{tmp_path}/diffusion",
        data=f"{tmp_path}/toy.zarr",
    )
    with pytest.raises(ConfigError, match=r"group 'camera'; their groups are .*object"):
        run_study(dataclasses.replace(config, group="camera"))
    with pytest.raises(MissingCapability, match="lacks energy"):
        run_study(dataclasses.replace(config, checkpoint=config.reference))
    with pytest.raises(ConfigError, match=r"stranger was trained on no episode of .*toy\.zarr"):
        run_study(dataclasses.replace(config, checkpoint=f"{tmp_path}/stranger"))
