"""A policy of pictures: its cameras come with the simulated robot, and no object's pose is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from hardware.deploy import DeployConfig, deploy
from hardware.session import SessionConfig, with_cameras
from hardware.spec import RobotSpec
from robopolicy.compose import config_directory
from robopolicy.data.store import EpisodeStore
from robopolicy.spec import ObservationSpec, Spec
from robopolicy.task import Task
from tests.hardware.test_session import ACTION, robot

PICTURE = ObservationSpec(shape=(48, 48, 3), dtype="uint8", kind="image")
SPEC = Spec(
    observations={"agentview_image": PICTURE, "robot0_joint_pos": ObservationSpec(shape=(7,))},
    action=ACTION,
    control_hz=20.0,
)


def test_a_simulated_robot_gets_the_cameras_that_a_policy_sees() -> None:
    panda = RobotSpec.load("panda_sim")
    assert with_cameras(panda, SessionConfig(), SPEC).cameras == {"agentview": 48}
    wide = SessionConfig(cameras={"agentview": 64, "frontview": 32})
    assert with_cameras(panda, wide, SPEC).cameras == {"agentview": 64, "frontview": 32}
    assert not with_cameras(robot(), SessionConfig(), SPEC).cameras  # a real one has its own
    without = SPEC.select(["robot0_joint_pos"])
    assert not with_cameras(panda, SessionConfig(), without).cameras


@pytest.mark.sim
@pytest.mark.slow
def test_pictures_reach_the_policy_over_the_wire(tmp_path: Path) -> None:
    pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")
    import torch

    from robopolicy.codecs import Codec, CodecConfig
    from robopolicy.env import make_env
    from robopolicy.learning.checkpoint import save_checkpoint
    from robopolicy.learning.train import choose_observations
    from robopolicy.policies.policy import Provenance
    from robopolicy.registry import build

    task = Task.from_dict(yaml.safe_load((config_directory() / "task" / "lift_pixels.yaml").read_text()))
    encoder = {"name": "vision", "backbone": "small", "channels": [16, 16, 16], "keypoints": 4, "features": 8}
    env = make_env(task)
    spec = choose_observations(env.robot_spec, encoder=encoder)
    first, _ = env.reset(seed=3_000_000)
    env.close()
    assert "object-state" not in spec.observations
    torch.manual_seed(0)
    policy = build(
        "policy",
        {
            "name": "diffusion",
            "encoder": encoder,
            "network": {"name": "mlp", "width": 32, "blocks": 1, "embedding": 16},
            "sampler": {"name": "ddim", "steps": 2},
        },
        spec=spec,
        codec=Codec(CodecConfig(), spec),
    )
    policy.provenance = Provenance(task=task)
    save_checkpoint(tmp_path / "checkpoint", policy)
    config = DeployConfig(
        robot=RobotSpec.load("panda_sim").replace(policy_timeout_s=2.0, obs_timeout_s=1.0, cmd_timeout_s=1.0),
        checkpoint=str(tmp_path / "checkpoint"),
        horizon=10,
        out=str(tmp_path / "out"),
    )
    (episode,) = deploy(config, say=lambda line: None)
    assert episode.steps >= 10 or episode.tripped
    seen = EpisodeStore.open(tmp_path / "out" / "episodes.zarr").episode(0)["agentview_image"]
    assert seen.shape[1:] == (64, 64, 3)
    # Before anything moved, the wire shows what the environment's own camera does.
    difference = np.abs(seen[0].astype(int) - first["agentview_image"].astype(int))
    assert np.mean(difference) < 3.0
