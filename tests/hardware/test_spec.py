from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hardware.models import model_path
from hardware.spec import Box, GuardConfig, JointSpec, RobotSpec
from robopolicy.errors import ConfigError
from tests.hardware.fakes import small_spec


@pytest.mark.parametrize("name", ["panda_sim", "g1_sim", "g1_arms_sim"])
def test_yaml_round_trip(name: str) -> None:
    spec = RobotSpec.load(name)
    assert RobotSpec.from_dict(spec.to_dict()) == spec
    assert spec.array("lower").shape == (spec.size,)
    assert (spec.array("home") > spec.array("lower") + spec.guard.position_margin).all()
    assert (spec.array("home") < spec.array("upper") - spec.guard.position_margin).all()
    assert not spec.real


def test_panda_is_within_what_franka_publishes() -> None:
    spec = RobotSpec.load("panda_sim")
    np.testing.assert_allclose(spec.array("acc"), [15, 7.5, 10, 12.5, 15, 20, 20])
    np.testing.assert_allclose(spec.array("vel"), [2.175] * 4 + [2.61] * 3)


def test_g1_joints_are_in_the_order_of_the_wire() -> None:
    names = RobotSpec.load("g1_sim").names
    assert names[0] == "left_hip_pitch_joint"
    assert names[12:15] == ("waist_yaw_joint", "waist_roll_joint", "waist_pitch_joint")
    assert names[15] == "left_shoulder_pitch_joint"
    assert names[28] == "right_wrist_yaw_joint"


def test_errors_name_the_culprit() -> None:
    with pytest.raises(ConfigError, match=r"Unknown robot 'pandas'.*panda_sim"):
        RobotSpec.load("pandas")
    with pytest.raises(ConfigError, match=r"joint a: lower < upper"):
        JointSpec(name="a", lower=1.0, upper=1.0, vel=1.0, acc=1.0, effort=1.0)
    with pytest.raises(ConfigError, match=r"joint a: vel must be positive, got -1"):
        JointSpec(name="a", lower=0.0, upper=1.0, vel=-1.0, acc=1.0, effort=1.0)
    with pytest.raises(ConfigError, match=r"never off"):
        GuardConfig(finite="off")
    with pytest.raises(ConfigError, match=r"low < high"):
        Box(low=(0.0, 0.0, 0.0), high=(1.0, 0.0, 1.0))
    with pytest.raises(ConfigError, match=r"stop=damp needs interface=impedance"):
        small_spec(stop="damp")
    with pytest.raises(ConfigError, match=r"different names"):
        small_spec(joints=small_spec().joints * 2)
    with pytest.raises(ConfigError, match=r"Unknown joint of small 'elbo'.*elbow"):
        small_spec().index("elbo")
    with pytest.raises(ConfigError, match=r"leaves nothing"):
        small_spec(guard=dataclasses.replace(GuardConfig(), position_margin=2.0))
    with pytest.raises(ConfigError, match=r"panda.xml"):
        model_path("pandda.xml")
