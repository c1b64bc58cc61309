from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hardware.command_map import CommandMap
from hardware.kinematics import axis_angle, matrix
from hardware.spec import RobotSpec
from robopolicy.errors import ConfigError, SpecMismatch
from robopolicy.spec import ActionPart, ActionSpec, PartKind, Rotation

RNG = np.random.default_rng(0)


def action_of(*parts: tuple[PartKind, int, Rotation | None]) -> ActionSpec:
    made = tuple(ActionPart(kind=kind, size=size, rotation=rotation) for kind, size, rotation in parts)
    size = sum(part.size for part in made)
    names = tuple(f"a{i}" for i in range(size))
    return ActionSpec(names=names, low=(-9.0,) * size, high=(9.0,) * size, parts=made)


POSE = action_of(("position", 3, None), ("rotation", 3, "axis_angle"), ("gripper", 1, None))


def panda(**changes: object) -> RobotSpec:
    spec = RobotSpec.load("panda_sim")
    return spec.replace(command_map={**spec.command_map, "stiffness": 0.0, **changes})


def motion(spec: RobotSpec, rows: int = 12) -> np.ndarray:
    return spec.array("home") + np.cumsum(0.02 * RNG.standard_normal((rows, spec.size)), axis=0)


def poses(mapped: CommandMap, joints: np.ndarray, gripper: float = -1.0) -> np.ndarray:
    rows = []
    for q in joints:
        position, rotation = mapped.end_effector(q)
        rows.append([*position, *axis_angle(rotation), gripper])
    return np.array(rows)


def check_reaches(mapped: CommandMap, wanted: np.ndarray, rows: np.ndarray) -> None:
    for q, reached in zip(wanted, rows, strict=True):
        (p0, r0), (p1, r1) = mapped.end_effector(q), mapped.end_effector(reached[:7])
        np.testing.assert_allclose(p0, p1, atol=2e-4)
        np.testing.assert_allclose(r0, r1, atol=2e-3)


def test_poses_of_a_motion_are_reached_smoothly() -> None:
    spec = panda(origin=(0.56, 0.0, -0.912), turn=(0.9239, 0.0, 0.0, 0.3827))
    mapped, joints = CommandMap(spec, POSE), motion(spec)
    result = mapped.waypoints(poses(mapped, joints), spec.array("home"))
    assert result.rows.shape == (12, 8)
    assert result.position_error.max() < 1e-4
    assert result.rotation_error.max() < 1e-3
    check_reaches(mapped, joints, result.rows)
    assert np.abs(np.diff(result.rows[:, :7], axis=0)).max() < 0.2
    np.testing.assert_allclose(result.rows[:, 7], 0.08)


def test_relative_poses_are_seen_from_the_measured_one() -> None:
    spec = panda(representation="ee_pose_relative")
    mapped, joints = CommandMap(spec, POSE), motion(spec)
    q = spec.array("home") + 0.1
    start, turn = mapped.end_effector(q)
    relative = poses(mapped, joints)
    for row, absolute in zip(relative, poses(mapped, joints), strict=True):
        row[:3] = turn.T @ (absolute[:3] - start)
        row[3:6] = axis_angle(turn.T @ matrix(absolute[3:6], "axis_angle"))
    check_reaches(mapped, joints, mapped.waypoints(relative, q).rows)


def test_what_cannot_be_reached_is_told_and_stays_in_the_limits() -> None:
    spec = panda()
    mapped = CommandMap(spec, POSE)
    far = poses(mapped, motion(spec))
    far[:, 0] += 1.0
    result = mapped.waypoints(far, spec.array("home"))
    assert result.position_error.min() > 0.2
    margin = spec.guard.position_margin
    assert (result.rows[:, :7] >= spec.array("lower") + margin - 1e-9).all()
    assert (result.rows[:, :7] <= spec.array("upper") - margin + 1e-9).all()


def test_two_hands_move_only_the_joints_they_may() -> None:
    spec = RobotSpec.load("g1_sim")
    arms = tuple(n for n in spec.names if any(w in n for w in ("shoulder", "elbow", "wrist")))
    spec = spec.replace(
        command_map={"representation": "ee_pose", "end_effector": "left_hand, right_hand", "joints": arms}
    )
    mapped = CommandMap(spec, action_of(("position", 3, None), ("position", 3, None)))
    q = spec.array("home")
    left, right = mapped.end_effector(q, 0)[0], mapped.end_effector(q, 1)[0]
    goal = np.concatenate([left, right]) + np.array([0.05, 0.02, 0.08, 0.03, -0.02, 0.1])
    rows = mapped.waypoints(np.tile(goal, (3, 1)), q).rows
    np.testing.assert_allclose(mapped.end_effector(rows[-1], 0)[0], goal[:3], atol=2e-4)
    np.testing.assert_allclose(mapped.end_effector(rows[-1], 1)[0], goal[3:], atol=2e-4)
    still = [i for i, name in enumerate(spec.names) if name not in arms]
    np.testing.assert_array_equal(rows[:, still], np.tile(q[still], (3, 1)))


def test_joint_positions_pass_through_and_the_gripper_is_scaled() -> None:
    spec = panda(representation="joint_position", gripper_open=1.0, gripper_closed=0.0)
    mapped = CommandMap(spec, action_of(("joint", 7, None), ("gripper", 1, None)))
    actions = np.concatenate([motion(spec, 4), [[0.0], [0.25], [1.0], [2.0]]], axis=1)
    rows = mapped.waypoints(actions, spec.array("home")).rows
    np.testing.assert_array_equal(rows[:, :7], actions[:, :7])
    np.testing.assert_allclose(rows[:, 7], [0.0, 0.02, 0.08, 0.08])


def test_actions_that_do_not_fit_are_refused_by_name() -> None:
    with pytest.raises(SpecMismatch, match="has a gripper"):
        CommandMap(panda(), action_of(("position", 3, None)))
    with pytest.raises(SpecMismatch, match="cannot use the joint part"):
        CommandMap(panda(), action_of(("joint", 7, None), ("gripper", 1, None)))
    with pytest.raises(SpecMismatch, match="has 6 joints, the map moves 7"):
        CommandMap(
            panda(representation="joint_position"), action_of(("joint", 6, None), ("gripper", 1, None))
        )
    with pytest.raises(SpecMismatch, match="no site 'hand'"):
        CommandMap(panda(end_effector="hand"), POSE)
    with pytest.raises(ConfigError, match="Unknown key 'site'"):
        CommandMap(panda(site="hand"), POSE)
    with pytest.raises(SpecMismatch, match=r"Actions are \[T, 7\], got \[3, 6\]"):
        CommandMap(panda(), POSE).waypoints(np.zeros((3, 6)), np.zeros(7))
    assert dataclasses.is_dataclass(CommandMap(panda(), POSE).config)


def test_the_way_starts_where_the_robot_is_and_ends_at_the_pose() -> None:
    spec = RobotSpec.load("panda_sim")
    mapped, q = CommandMap(panda(stiffness=150.0), POSE), spec.array("home")
    position, rotation = mapped.end_effector(q)
    goal = np.concatenate([position + np.array([0.05, 0.0, -0.05]), axis_angle(rotation), [1.0]])
    way = mapped.waypoints(np.tile(goal, (30, 1)), q)
    np.testing.assert_allclose(way.rows[0, :7], q, atol=1e-3)
    np.testing.assert_allclose(mapped.end_effector(way.rows[-1, :7])[0], goal[:3], atol=1e-3)
    assert way.position_error.max() < 1e-3
    with pytest.raises(ConfigError, match="stiffness is for poses"):
        CommandMap(panda(representation="joint_position", stiffness=150.0), POSE)
