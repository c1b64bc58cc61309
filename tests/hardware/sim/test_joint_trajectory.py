"""The simulated controller keeps the rules of the real one."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")

from hardware.sim.joint_trajectory import JointTrajectoryController
from hardware.transport.idl_ros import Duration, Header, JointTrajectory, JointTrajectoryPoint, Time

NAMES = ("a", "b")
NOW = 1_700_000_000_000_000_000
MS = 1_000_000


def trajectory(
    times_ms: list[float], q: np.ndarray, dq: np.ndarray | None = None, stamp: int = 0
) -> JointTrajectory:
    points = [
        JointTrajectoryPoint(
            positions=list(q[i]),
            velocities=[] if dq is None else list(dq[i]),
            time_from_start=Duration.from_ns(round(t * MS)),
        )
        for i, t in enumerate(times_ms)
    ]
    return JointTrajectory(Header(Time.from_ns(stamp)), list(NAMES), points)


def test_a_cubic_is_followed_exactly() -> None:
    controller = JointTrajectoryController(NAMES, np.zeros(2))

    def q(t: float) -> np.ndarray:
        return np.array([t**2 * (3 - 2 * t), -2 * t**2 * (3 - 2 * t)])

    def dq(t: float) -> np.ndarray:
        return np.array([6 * t * (1 - t), -12 * t * (1 - t)])

    times = [250.0, 600.0, 1000.0]
    message = trajectory(times, np.array([q(t / 1e3) for t in times]), np.array([dq(t / 1e3) for t in times]))
    assert controller.accept(message, NOW) == ""
    for ms in range(0, 1000, 37):
        there, speed = controller.sample(NOW + ms * MS)
        np.testing.assert_allclose(there, q(ms / 1e3), atol=1e-12)
        np.testing.assert_allclose(speed, dq(ms / 1e3), atol=1e-10)
    there, speed = controller.sample(NOW + 5000 * MS)
    np.testing.assert_allclose(there, [1.0, -2.0])
    assert not speed.any()


def test_positions_alone_are_joined_by_lines_and_names_may_be_in_any_order() -> None:
    controller = JointTrajectoryController(NAMES, np.zeros(2))
    message = trajectory([100.0], np.array([[1.0, 2.0]]))
    message.joint_names = ["b", "a"]
    assert controller.accept(message, NOW) == ""
    there, speed = controller.sample(NOW + 25 * MS)
    np.testing.assert_allclose(there, [0.5, 0.25])
    np.testing.assert_allclose(speed, [20.0, 10.0])


def test_replacing_a_trajectory_is_continuous_and_late_points_are_dropped() -> None:
    controller = JointTrajectoryController(NAMES, np.zeros(2))
    controller.accept(trajectory([100.0], np.ones((1, 2)), np.zeros((1, 2))), NOW)
    at = NOW + 40 * MS
    before = controller.sample(at)
    late = trajectory([10.0, 30.0, 90.0], np.array([[9.0] * 2, [9.0] * 2, [2.0] * 2]), np.zeros((3, 2)), NOW)
    assert controller.accept(late, at) == ""
    np.testing.assert_allclose(controller.sample(at), before)
    np.testing.assert_allclose(controller.sample(NOW + 90 * MS)[0], [2.0, 2.0])
    path = np.array([controller.sample(at + i * MS)[0] for i in range(51)])
    assert np.abs(np.diff(path, axis=0)).max() < 0.1


def test_stopping_brakes_without_a_jump() -> None:
    controller = JointTrajectoryController(NAMES, np.zeros(2), acceleration=5.0)
    controller.accept(trajectory([1000.0], np.ones((1, 2)), np.zeros((1, 2))), NOW)
    at = NOW + 500 * MS
    q, dq = controller.sample(at)
    controller.stop(at)
    np.testing.assert_allclose(controller.sample(at)[0], q)
    np.testing.assert_allclose(controller.sample(at)[1], dq)
    times = np.arange(0, 400)
    speeds = np.array([controller.sample(at + int(t) * MS)[1] for t in times])
    assert np.abs(np.diff(speeds, axis=0)).max() <= 5.0e-3 * 1.001
    np.testing.assert_allclose(controller.sample(at + 400 * MS)[0], q + dq**2 / 10.0, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda m: m.joint_names.append("c"), "joint names"),
        (lambda m: m.points.clear(), "no points"),
        (lambda m: m.points[0].positions.pop(), "2 positions"),
        (lambda m: m.points[0].velocities.pop(), "2 positions, and 2 velocities"),
        (lambda m: m.points[0].positions.__setitem__(0, float("nan")), "not finite"),
        (lambda m: m.points[1].velocities.__setitem__(0, float("inf")), "not finite"),
        (lambda m: m.points[1].velocities.__setitem__(0, 0.1), "last velocity"),
        (lambda m: m.points.reverse(), "increase"),
        (lambda m: setattr(m.header, "stamp", Time.from_ns(NOW - 10**9)), "in the past"),
    ],
)
def test_what_is_wrong_is_refused_and_changes_nothing(change: object, why: str) -> None:
    controller = JointTrajectoryController(NAMES, np.array([0.3, 0.4]))
    message = trajectory([10.0, 20.0], np.ones((2, 2)), np.zeros((2, 2)))
    assert callable(change)
    change(message)
    assert why in controller.accept(message, NOW)
    np.testing.assert_allclose(controller.sample(NOW + 20 * MS)[0], [0.3, 0.4])
