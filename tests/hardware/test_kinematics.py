from __future__ import annotations

import numpy as np
import pytest

from hardware.kinematics import Kinematics, approach, axis_angle, matrix
from hardware.spec import RobotSpec
from robopolicy.errors import SpecMismatch


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator of a test's own: what it draws does not depend on the tests before it."""
    return np.random.default_rng(0)


SETTINGS = {
    "iterations": 50,
    "damping": 0.02,
    "posture_gain": 0.02,
    "tolerance_m": 1e-4,
    "tolerance_rad": 1e-3,
}


@pytest.mark.parametrize("representation", ["axis_angle", "rot6d", "quat_wxyz", "quat_xyzw"])
def test_rotations_agree_with_the_library(representation: str, rng: np.random.Generator) -> None:
    import torch

    from robopolicy.codecs.rotation import to_matrix

    size = {"axis_angle": 3, "rot6d": 6}.get(representation, 4)
    for value in rng.standard_normal((5, size)):
        np.testing.assert_allclose(
            matrix(value, representation), to_matrix(torch.tensor(value), representation).numpy(), atol=1e-9
        )


def test_a_stiffness_gives_the_way_of_a_critically_damped_controller() -> None:
    """Its closed form after a step from rest: x = 1 - (1 + w t) exp(-w t)."""
    targets = [(np.array([1.0, 0.0, 0.0]), matrix(np.array([0.0, 0.0, 1.0]), "axis_angle"))] * 20
    way = approach((np.zeros(3), np.eye(3)), (np.zeros(3), np.zeros(3)), targets, 10.0, 0.01)
    t = 0.01 * np.arange(20)
    expected = 1 - (1 + 10 * t) * np.exp(-10 * t)
    np.testing.assert_allclose([position[0] for position, _ in way], expected, atol=0.005)
    turned = [axis_angle(rotation)[2] for _, rotation in way if rotation is not None]
    np.testing.assert_allclose(turned, expected, atol=0.005)
    moving = approach(
        (np.zeros(3), np.eye(3)), (np.ones(3), np.zeros(3)), [(np.zeros(3), None)] * 3, 1.0, 0.01
    )
    np.testing.assert_allclose(moving[1][0], 0.01, rtol=0.03)  # goes on as it was
    assert moving[1][1] is None


def test_joints_bring_a_hand_where_joints_had_it_and_move_no_others(rng: np.random.Generator) -> None:
    spec = RobotSpec.load("panda_sim")
    solver = Kinematics(spec, spec.names[1:], **SETTINGS)
    site, home = solver.site("grip_site"), spec.array("home")
    for _ in range(5):
        goal = solver.pose(site, home + np.append(0.0, 0.2 * rng.standard_normal(6)))
        q, far, turned = solver.solve(home, [site], [goal])
        position, rotation = solver.pose(site, q)
        np.testing.assert_allclose(position, goal[0], atol=2e-4)
        assert np.linalg.norm(axis_angle(rotation @ goal[1].T)) < 2e-3
        assert far < 1e-4
        assert turned < 1e-3
        assert q[0] == home[0]
    assert solver.site("nose") < 0


def test_velocities_are_the_derivatives_of_poses(rng: np.random.Generator) -> None:
    spec = RobotSpec.load("panda_sim")
    solver = Kinematics(spec, spec.names, **SETTINGS)
    site, q, dq = solver.site("grip_site"), spec.array("home"), rng.standard_normal(7)
    (p0, r0), (p1, r1) = solver.pose(site, q), solver.pose(site, q + 1e-6 * dq)
    linear, angular = solver.velocity(site, q, dq)
    np.testing.assert_allclose(linear, (p1 - p0) / 1e-6, atol=1e-4)
    np.testing.assert_allclose(angular, axis_angle(r1 @ r0.T) / 1e-6, atol=1e-4)
    assert not np.any(solver.velocity(site, q, None))


def test_a_rotation_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(SpecMismatch, match="does not say what it is"):
        matrix(np.zeros(3), "euler")
