from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch

from robopolicy.data.store import EpisodeStore
from robopolicy.errors import CheckpointError, ConfigError, SpecMismatch
from robopolicy.learning.checkpoint import load, load_model
from robopolicy.spec import ObservationSpec, Spec
from robopolicy.world.starts import Starts
from robopolicy.world.train import WorldTraining
from robopolicy.world.world import World, load_world
from tests.commands import run as command
from tests.toy_env import toy_spec
from tests.world.toy_world import TASK, training


def weights(world: World) -> torch.Tensor:
    return torch.cat([p.flatten() for p in world.parameters()])


def test_interrupted_and_resumed_equals_uninterrupted(stores: list[Path], tmp_path: Path) -> None:
    whole = training(stores, tmp_path / "whole", steps=12).run()
    first = training(stores, tmp_path / "parts", steps=12)
    usual = first.trainer._update

    def update() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if first.trainer.step == 5:
            signal.raise_signal(signal.SIGINT)
        return usual()

    first.trainer._update = update  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = training(stores, tmp_path / "parts", steps=12)
    assert 0 < second.trainer.step < 12
    assert torch.equal(weights(whole), weights(second.run()))


def test_a_world_model_comes_back_as_it_was(trained: WorldTraining, world: World) -> None:
    average = trained.trainer.average
    assert torch.equal(weights(average), weights(world))
    for name in ("threshold", "consecutive", "step", "source", "action_low"):
        assert torch.equal(average.get_buffer(name), world.get_buffer(name))
    assert world.provenance.task == TASK
    assert set(world.provenance.used_seeds) == {*range(40)}
    assert not any(p.requires_grad for p in world.parameters())
    with pytest.raises(CheckpointError, match="is not the checkpoint of a policy"):
        load(trained.directory)
    assert torch.equal(weights(load_world(trained.directory.parent)), weights(world))
    for path in (trained.directory / "checkpoints", trained.directory / "nowhere"):
        with pytest.raises(CheckpointError, match="contains no finished world model"):
            load_world(path)
    (newest,) = (trained.directory / "checkpoints").iterdir()
    with pytest.raises(CheckpointError, match="is not the checkpoint of a policy"):
        load_model(newest.parent.parent, "policy")


def test_the_rule_of_success_is_kept_with_what_it_does_on_held_out_episodes(trained: WorldTraining) -> None:
    rule = json.loads((trained.directory / "held_out.json").read_text())
    assert rule["false_success"] < 0.02
    assert rule["failures"] > 0
    assert rule["true_success"] > 0.7
    assert 0.95 < rule["one_step"] <= 1
    starts = Starts.load(trained.directory)
    assert starts.first.sum() == 45  # of 60 episodes a quarter is held out
    assert not set(trained.held.seeds) & {-1}


def test_stores_that_do_not_fit_are_refused(stores: list[Path], tmp_path: Path) -> None:
    spec = toy_spec()
    other = Spec(
        observations={"position": ObservationSpec(shape=(3,)), "goal": spec.observations["goal"]},
        action=spec.action,
        control_hz=spec.control_hz,
    )
    EpisodeStore.create(tmp_path / "other.zarr", other, task=TASK.to_dict())
    with pytest.raises(SpecMismatch, match=r"other.zarr does not fit:\n.*'position': shape"):
        training([stores[0], tmp_path / "other.zarr"], tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="validation must be in"):
        training(stores, tmp_path / "run", validation=0.0)
    with pytest.raises(ConfigError, match="width"):
        training(stores, tmp_path / "run", wdth=3)


def test_another_configuration_in_the_same_place_is_refused(
    trained: WorldTraining, stores: list[Path]
) -> None:
    with pytest.raises(ConfigError, match="bins"):
        training(stores, trained.directory, bins=11)


def test_the_command_trains_and_says_what_is_next(
    stores: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ",".join(map(str, stores))
    small = [
        "world.width=16",
        "world.blocks=1",
        "world.members=2",
        "trainer.steps=5",
        "trainer.batch_size=16",
    ]
    command("train_world", f"data=[{data}]", f"out={tmp_path}/run", "device=cpu", *small)
    said = capsys.readouterr().out
    assert "windows of toy" in said
    assert "successes, and takes" in said
    assert f"env=imagined world={tmp_path}/run" in said
    world = load_world(tmp_path / "run")
    assert world.usual_doubt > 0
