from __future__ import annotations

import numpy as np
import pytest

from hardware.command_map import CommandMap
from hardware.observe import Observer
from hardware.spec import RobotSpec
from hardware.teleop.derive import derive_spec
from robopolicy.errors import ConfigError, SpecMismatch
from tests.hardware.fakes import small_spec


def test_an_arm_that_takes_poses() -> None:
    robot = RobotSpec.load("panda_sim")
    shown = {"wrist": np.zeros((48, 64, 3), np.uint8)}
    robot = robot.replace(observations={**robot.observations, "wrist_image": ("wrist.image",)})
    known = {key: parts for key, parts in robot.observations.items() if not parts[0].startswith("agentview")}
    spec = derive_spec(robot.replace(observations=known), 20.0, shown)
    assert spec.observations["object-state"].shape == (10,)
    assert spec.observations["object-state"].group == "object"
    assert spec.observations["robot0_joint_pos"].shape == (7,)
    assert spec.observations["robot0_eef_quat_site"].rotation == "quat_xyzw"
    assert spec.observations["wrist_image"].shape == (48, 64, 3)
    assert [part.reference for part in spec.action.parts] == ["robot0_eef_pos", "robot0_eef_quat_site", None]
    assert (spec.action.low[-1], spec.action.high[-1]) == (-1.0, 1.0)
    CommandMap(robot, spec.action)
    Observer(robot, spec)
    with pytest.raises(SpecMismatch, match=r"'wrist_image': nothing has come from 'wrist' yet.*wrist=84"):
        derive_spec(robot.replace(observations=known), 20.0, {})


def test_an_arm_that_takes_joints() -> None:
    robot = small_spec(observations={"q": ["joints.position"]})
    action = derive_spec(robot, 10.0, {}).action
    assert action.names == ("shoulder", "elbow")
    assert action.parts[0].reference == "q"
    assert action.low == (-2.0, -2.0)
    CommandMap(robot, action)
    with pytest.raises(ConfigError, match="has no observations"):
        derive_spec(small_spec(), 10.0, {})
    relative = small_spec(
        observations={"q": ["joints.position"]}, command_map={"representation": "ee_pose_relative"}
    )
    with pytest.raises(ConfigError, match="one pose or joints, not ee_pose_relative"):
        derive_spec(relative, 10.0, {})
