"""From a checkpoint to episodes: on a robot without a wire, and on the simulated Panda."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardware.deploy import DeployConfig, deploy
from hardware.executor import ExecutorConfig
from hardware.record import reason_names
from hardware.session import SessionConfig, in_its_scene
from hardware.spec import RobotSpec
from hardware.wire_results import WireResults, summarise
from robopolicy.codecs import Codec, CodecConfig
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError, DataError, SpecMismatch
from robopolicy.evaluation.video import read_mp4
from robopolicy.learning.checkpoint import save_checkpoint
from robopolicy.policies.policy import Policy, Provenance
from robopolicy.registry import build
from robopolicy.spec import Spec
from robopolicy.task import Task
from tests.hardware.test_session import SPEC, Operator, robot
from tests.policies.toys import NETWORK

TASK = Task(name="reach", env={"name": "none"}, horizon=12)


def checkpoint(directory: Path, spec: Spec = SPEC, **provenance: Any) -> str:
    """An untrained policy: what it does is of no interest here."""
    torch.manual_seed(0)
    config = {"name": "diffusion", "network": NETWORK, "sampler": {"name": "ddim", "steps": 2}}
    policy = build("policy", config, spec=spec, codec=Codec(CodecConfig(), spec))
    assert isinstance(policy, Policy)
    policy.provenance = Provenance(**{"task": TASK, **provenance})
    save_checkpoint(directory / "checkpoint", policy)
    return str(directory / "checkpoint")


@pytest.mark.parametrize("mode", ["chunks", "rtc"])
def test_episodes_are_run_recorded_and_gone_on_with(tmp_path: Path, mode: Any) -> None:
    reference = tmp_path / "evaluation.json"
    reference.write_text(json.dumps({"episodes": [{"seed": 3000000, "success": True}]}))
    config = DeployConfig(
        robot=robot(),
        checkpoint=checkpoint(tmp_path),
        episodes=1,
        out=str(tmp_path / "out"),
        results=str(tmp_path / "wire.json"),
        reference=str(reference),
        executor=ExecutorConfig(mode=mode),
    )
    said: list[str] = []
    (episode,) = deploy(config, ask=Operator(), say=said.append)
    assert episode.success  # the operator said so
    assert episode.steps == 12
    assert 0.5 < episode.seconds < 3.0
    assert episode.tripped == ""
    assert any("RUNNING" in line or "HOLD" in line for line in said)
    store = EpisodeStore.open(tmp_path / "out" / "episodes.zarr")
    recorded = store.episode(0)
    assert store.task is not None
    assert store.task["name"] == "reach"
    assert 4 <= len(recorded["action"]) <= 12
    assert set(reason_names(int(recorded["reasons"].max()))) <= {
        "velocity", "acceleration", "starved", "early", "position", "stale_command",
    }  # fmt: skip
    costs = {"name": "costs", "smoothness": 0.5, "positions": {"columns": [0, 1], "key": "q"}}
    steer = costs if mode == "chunks" else None
    further = dataclasses.replace(config, episodes=2, record=False, steer=steer)
    (second,) = deploy(further, ask=Operator(), say=said.append)
    assert second.seed == 3000001
    assert (
        deploy(further, ask=pytest.fail, say=said.append) == []
    )  # all of them are there: nothing is started
    found = json.loads((tmp_path / "wire.json").read_text())["conditions"]["as is"]
    assert found["count"] == 2
    assert found["settings"].get("steer", {}).get("name") == (steer and "costs")
    assert found["minus_in_simulator"]["pairs"] == 1
    assert found["minus_in_simulator"]["value"] == 0.0


def test_refusals_come_before_anything_is_started(tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    with pytest.raises(ConfigError, match="hardware emergency stop"):
        deploy(DeployConfig(robot=robot(real=True), checkpoint=path))
    with pytest.raises(SpecMismatch, match="observes 'q', which small does not supply"):
        deploy(DeployConfig(robot=robot().replace(observations={}), checkpoint=path))
    panda = RobotSpec.load("panda_sim").replace(
        command_map={"representation": "joint_position"}, observations={"q": ("gripper.fingers",)}
    )
    with pytest.raises(SpecMismatch, match="The action has 2 joints, the map moves 7"):
        deploy(DeployConfig(robot=panda, checkpoint=path))
    with pytest.raises(DataError, match="training or choosing this policy"):
        deploy(DeployConfig(robot=robot(), checkpoint=checkpoint(tmp_path, used_seeds=(3000000,))))
    with pytest.raises(ConfigError, match="episodes >= 1"):
        DeployConfig(robot=robot(), checkpoint=path, episodes=0)
    without = checkpoint(tmp_path, task=None)
    with pytest.raises(ConfigError, match="has no task: give horizon="):
        deploy(DeployConfig(robot=robot(), checkpoint=without), ask=Operator())


def test_a_simulated_robot_is_put_into_the_scene_of_the_checkpoint() -> None:
    panda = RobotSpec.load("panda_sim")
    task = Task(name="lift_hard", env={"name": "robosuite"}, horizon=150)
    told = SessionConfig(simulator={"pose_hz": 10})
    named = SessionConfig(simulator={"task": "lift"})
    assert in_its_scene(panda, SessionConfig(), task).simulator == {"task": "lift_hard"}
    assert in_its_scene(panda, told, task).simulator == {"pose_hz": 10, "task": "lift_hard"}
    assert in_its_scene(panda, told, dataclasses.replace(task, name="my_own")) is told
    assert in_its_scene(panda, told, None) is told
    assert in_its_scene(panda, named, task) is named
    assert in_its_scene(robot(), told, task) is told


def test_results_of_several_runs_add_up(tmp_path: Path) -> None:
    row = {"seed": 1, "success": True, "tripped": "", "tracking_mm": 3.0, "inference_ms": 5.0}
    path = str(tmp_path / "wire.json")
    for label in ("as is", "as is", "late"):
        results = WireResults(path, label)
        seed = 1 + len(results.seeds)
        results.add({**row, "seed": seed, "success": seed == 1}, settings={})
    found = json.loads(Path(path).read_text())["conditions"]
    assert {label: entry["count"] for label, entry in found.items()} == {"as is": 2, "late": 1}
    assert found["as is"]["success"]["value"] == 0.5
    paired = summarise([row, {**row, "seed": 2, "success": False}], {"1": True, "2": True, "3": False})
    assert paired["minus_in_simulator"]["value"] == -0.5
    assert paired["minus_in_simulator"]["pairs"] == 2
    with pytest.raises(DataError, match="evaluate the policy in the simulator first"):
        WireResults(path, "as is", str(tmp_path / "nothing.json"))


@pytest.mark.sim
@pytest.mark.slow
def test_on_the_simulated_panda(tmp_path: Path) -> None:
    pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")
    import yaml

    import envs  # noqa: F401
    from robopolicy.compose import config_directory
    from robopolicy.env import make_env

    task = Task.from_dict(yaml.safe_load((config_directory() / "task" / "lift_absolute.yaml").read_text()))
    env = make_env(task)
    path = checkpoint(tmp_path, env.robot_spec, task=task)
    env.close()
    config = DeployConfig(
        robot=RobotSpec.load("panda_sim"),
        checkpoint=path,
        horizon=20,
        out=str(tmp_path / "out"),
        session=SessionConfig(
            simulator={"pose_noise": 0.005, "pose_delay": 0.05}, film="agentview", film_size=32
        ),
    )
    (episode,) = deploy(config, say=lambda line: None)
    assert episode.steps >= 20 or episode.tripped  # a busy machine is late to notice the end
    recorded = EpisodeStore.open(tmp_path / "out" / "episodes.zarr").episode(0)
    cube = recorded["object-state"][:, :3]
    assert 0.001 < cube.std(axis=0).max() < 0.02  # noisy as asked
    np.testing.assert_allclose(recorded["robot0_eef_pos"][0], [-0.1, 0.0, 1.0], atol=0.1)
    frames, rate = read_mp4(tmp_path / "out" / f"episode_{episode.seed}.mp4")
    assert rate == 20
    assert frames[0].shape == (32, 32, 3)
    assert frames[0][:15].mean() < frames[0][17:].mean()  # a dark strip with a label above the scene
    assert (tmp_path / "out" / "episode_3000000.mp4").stat().st_size > 500
