"""Every family through the scripts: trained on a toy store, loaded, evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robopolicy import load
from robopolicy.evaluation.collect import collect
from robopolicy.evaluation.evaluate import Evaluation
from robopolicy.policies.denoising import DenoisingPolicy
from tests.commands import run
from tests.toy_env import toy_task

HORIZONS = ("policy.pred_horizon=8", "policy.action_horizon=4", "trainer.batch_size=32", "trainer.warmup=2")
SMALL_MLP = ("policy.network.width=32", "policy.network.blocks=1")
FAMILIES = {
    "transformer": ("network=transformer_small", "network.width=16", "network.layers=1", "sampler=dpm",
                    "sampler.steps=3"),
    "dit": ("network=dit_small", "network.width=16", "network.layers=1", "sampler=ddpm", "sampler.steps=5"),
    "moe": ("network=moe_small", "network.width=16", "network.layers=1", "sampler.steps=3"),
    "dppo_mlp": ("network=dppo_mlp", "network.width=32", "sampler=heun", "sampler.steps=3"),
    "corrected": (*SMALL_MLP, "sampler.corrector.steps=1", "sampler.steps=2"),
    "mlp": (*SMALL_MLP, "sampler.steps=3"),
    "unet": ("network=unet_small", "network.channels=[16,32]", "network.embedding=16", "sampler.steps=3"),
    "beso": ("policy=beso", *SMALL_MLP, "observations=[position,goal,goal/position]"),
    "gaussian": ("policy=gaussian", "policy.width=32", "policy.blocks=1"),
    "gmm": ("policy=gmm", "policy.width=32", "policy.blocks=1"),
    "energy_published": ("policy=energy_published", *SMALL_MLP),
    "energy_denoising": ("policy=energy_denoising", *SMALL_MLP, "sampler.steps=3"),
    "modality_dropout": ("policy=modality_dropout", *SMALL_MLP, "sampler.steps=3"),
}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("toy") / "toy.zarr"
    collect(toy_task(noise=0.1), path, episodes=20, workers=0, progress=False)
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_trains_and_loads(family: str, store: Path, tmp_path: Path) -> None:
    line = [f"data={store}", *HORIZONS, *FAMILIES[family], "validation=0"]
    run("train", *line, f"out={tmp_path}/whole", "trainer.steps=4")
    policy = load(tmp_path / "whole")
    assert policy.provenance.step == 4
    run("train", *line, f"out={tmp_path}/whole", "trainer.steps=4")  # an equal command finds it done
    again = load(tmp_path / "whole")
    assert all((a == b).all() for a, b in zip(policy.parameters(), again.parameters(), strict=True))


def test_a_policy_that_learned_no_past_is_not_verified_by_it(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*HORIZONS, *SMALL_MLP, "trainer.steps=1", "validation=0", "past_actions=0"]
    run("train", f"data={store}", f"out={tmp_path}/run", *settings)
    with pytest.raises(SystemExit):
        run("evaluate", f"checkpoint={tmp_path}/run", "steer=past_verified", "video=0")
    assert "trained with past_actions=0" in capsys.readouterr().err


def test_another_sampler_at_evaluation(store: Path, tmp_path: Path) -> None:
    settings = [*HORIZONS, *SMALL_MLP, "trainer.steps=4", "validation=0"]
    run("train", f"data={store}", f"out={tmp_path}/run", *settings)
    line = [f"checkpoint={tmp_path}/run", "episodes=2", "lanes=2", "workers=0", "video=0"]
    run("evaluate", *line, "sampler=dpm", "sampler.steps=3")
    assert Evaluation.load(tmp_path / "run" / "evaluation_dpm3").rows
    run("evaluate", *line)
    policy = load(tmp_path / "run")
    assert isinstance(policy, DenoisingPolicy)
    described = json.loads((tmp_path / "run" / "checkpoints" / "step-00000004" / "policy.json").read_text())
    assert described["policy"]["sampler"]["name"] == policy.config.sampler["name"] == "ddim"


def test_a_sampler_needs_a_policy_that_denoises(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*HORIZONS, *FAMILIES["gmm"], "trainer.steps=1", "validation=0"]
    run("train", f"data={store}", f"out={tmp_path}/run", *settings)
    for what in (f"checkpoint={tmp_path}/run", "policy=zero"):
        with pytest.raises(SystemExit):
            run("evaluate", what, "sampler=dpm", "video=0")
    message = capsys.readouterr().err
    assert "no sampler to replace" in message
    assert "another sampler for a checkpoint" in message
