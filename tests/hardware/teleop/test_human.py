from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from hardware.teleop.device import Motion
from hardware.teleop.human import Human, HumanConfig
from robopolicy.codecs import rotation
from robopolicy.errors import ConfigError
from robopolicy.spec import ActionPart, ActionSpec, ObservationSpec, Spec
from tests.toy_env import toy_spec

FORWARD = Motion(np.array([1.0, 0.0, 0.0]))
DOWN = np.array([0.0, 1.0, 0.0, 0.0])
HERE = {"hand": np.array([0.1, 0.2, 0.9]), "turn": DOWN, "joints": np.array([0.3, -0.4])}


def spec(*parts: ActionPart, low: float = -4.0, high: float = 4.0, what: str = "ee_pose") -> Spec:
    size = sum(part.size for part in parts)
    action = ActionSpec(
        names=tuple(map(str, range(size))),
        low=(low,) * size,
        high=(high,) * size,
        representation=what,
        parts=parts,
    )
    observations = {
        "hand": ObservationSpec(shape=(3,)),
        "turn": ObservationSpec(shape=(4,), rotation="quat_xyzw"),
        "joints": ObservationSpec(shape=(2,)),
    }
    return Spec(observations=observations, action=action, control_hz=20.0)


def pose(how: Any = "axis_angle") -> Spec:
    size = {"axis_angle": 3, "rot6d": 6}.get(how, 4)
    return spec(
        ActionPart(kind="position", size=3, reference="hand"),
        ActionPart(kind="rotation", size=size, rotation=how, reference="turn"),
        ActionPart(kind="gripper", size=1),
    )


def test_a_pose_begins_where_the_hand_is_and_moves_at_the_speed() -> None:
    human = Human(pose(), HumanConfig(linear_speed=0.2))
    human.begin(HERE)
    np.testing.assert_allclose(human.act(Motion(), HERE)[:3], HERE["hand"], atol=1e-6)
    for step in range(1, 4):
        np.testing.assert_allclose(human.act(FORWARD, HERE)[0], 0.1 + 0.01 * step, atol=1e-6)


def test_a_target_does_not_run_away_from_a_hand_that_is_held_up() -> None:
    human = Human(pose(), HumanConfig(leash=0.05))
    human.begin(HERE)
    for _ in range(100):
        action = human.act(FORWARD, HERE)
    np.testing.assert_allclose(action[:3] - HERE["hand"], [0.05, 0, 0], atol=1e-6)
    back = human.act(Motion(np.array([-1.0, 0.0, 0.0])), HERE)
    assert back[0] < action[0]  # at once


@pytest.mark.parametrize("how", ["axis_angle", "quat_xyzw", "quat_wxyz", "rot6d"])
def test_turns_are_about_the_axes_of_the_frame(how: str) -> None:
    human = Human(pose(how), HumanConfig(angular_speed=2.0))
    human.begin(HERE)
    for _ in range(5):
        action = human.act(Motion(angular=np.array([0.0, 0.0, 1.0])), HERE)
    found = rotation.to_matrix(torch.as_tensor(action[3:-1], dtype=torch.float64), how).numpy()
    turn = rotation.to_matrix(torch.tensor([0.0, 0.0, 0.5], dtype=torch.float64), "axis_angle").numpy()
    down = rotation.to_matrix(torch.as_tensor(DOWN), "quat_xyzw").numpy()
    np.testing.assert_allclose(found, turn @ down, atol=1e-6)


def test_the_gripper_is_as_it_was_until_it_is_toggled() -> None:
    human = Human(pose(), HumanConfig())
    human.begin(HERE)
    assert human.act(Motion(), HERE)[-1] == -4.0
    assert human.act(Motion(toggle_gripper=True), HERE)[-1] == 4.0
    last = human.act(Motion(), HERE)
    human.begin(HERE, last)
    assert human.closed
    assert human.act(Motion(), HERE)[-1] == 4.0


def test_changes_and_joints() -> None:
    deltas = Human(toy_spec(), HumanConfig(delta_share=0.5))
    deltas.begin({})
    np.testing.assert_allclose(deltas.act(Motion(np.array([1.0, -0.5, 1.0])), {}), [0.5, -0.25])
    joints = Human(
        spec(ActionPart(kind="joint", size=2, reference="joints"), high=0.35, what="joint_position"),
        HumanConfig(joint_speed=1.0),
    )
    joints.begin(HERE)
    np.testing.assert_allclose(joints.act(Motion(np.array([0.0, -1.0, 0.0])), HERE), [0.3, -0.45], atol=1e-6)
    for _ in range(3):
        action = joints.act(FORWARD, HERE)
    assert action[0] == np.float32(0.35)  # the bound


def test_what_cannot_be_steered_is_refused() -> None:
    plain = dataclasses.replace(toy_spec().action, parts=())
    with pytest.raises(ConfigError, match="nobody can steer 'other'"):
        Human(dataclasses.replace(toy_spec(), action=plain), HumanConfig())
    with pytest.raises(ConfigError, match=r"joint is absolute.*give the part a reference"):
        Human(spec(ActionPart(kind="joint", size=2), what="joint_position"), HumanConfig())
    two = ActionPart(kind="position", size=3, reference="hand")
    with pytest.raises(ConfigError, match="the action has 2 position parts"):
        Human(spec(two, two), HumanConfig())
    with pytest.raises(ConfigError, match=r"human.leash must be positive"):
        HumanConfig(leash=0.0)
    with pytest.raises(ConfigError, match=r"delta_share must be in \(0, 1\]"):
        HumanConfig(delta_share=2.0)
