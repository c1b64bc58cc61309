"""The ROS 2 arm driver against a fake arm that publishes one pose and records trajectories."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")

from hardware.messages import Command
from hardware.robot import Robot, RobotError, make_robot
from hardware.sim.faulty_arm import ARM, HOME, FaultyArm
from hardware.spec import LifeState, RobotSpec
from hardware.transport.idl_ros import Bool
from hardware.transport.network import Network
from tests.hardware.wire import free_network


def spec_for(network: Network, **driver: object) -> RobotSpec:
    spec = RobotSpec.load("panda_sim")
    driver = {**spec.driver, "network": {"domain": network.domain}, **driver}
    # Patient, because test machines are busy.
    return spec.replace(driver=driver, arm_ramp_s=0.05, cmd_timeout_s=0.3, obs_timeout_s=0.3)


@pytest.fixture
def network() -> Network:
    return free_network()


@pytest.fixture
def arm(network: Network) -> Iterator[FaultyArm]:
    fake = FaultyArm(network)
    yield fake
    fake.close()


@pytest.fixture
def robot(arm: FaultyArm, network: Network) -> Iterator[Robot]:
    robot = make_robot(spec_for(network))
    yield robot
    robot.close()


def command(q: np.ndarray, gripper: float | None = None) -> Command:
    now = time.monotonic_ns()
    return Command(t_ns=now, valid_until_ns=now + 10**9, q=q, gripper=gripper)


def run(robot: Robot, q: np.ndarray, ticks: int, gripper: float | None = None) -> list[Command]:
    sent = []
    for _ in range(ticks):
        sent.append(robot.write(command(q, gripper)))
        time.sleep(1.0 / robot.spec.control_hz)
    return sent


def test_states_are_read_by_name_and_connecting_sends_nothing(arm: FaultyArm, robot: Robot) -> None:
    arm.velocity[0] = 0.25
    robot.connect()
    assert robot.state is LifeState.READ_ONLY
    seen = robot.read(1.0)
    np.testing.assert_allclose(seen.q, HOME)
    assert seen.dq[6] == 0.25
    assert seen.gripper == pytest.approx(0.06)
    assert seen.t_src_ns is not None
    assert seen.t_src_ns <= seen.t_ns
    assert robot.read(1.0).seq > seen.seq
    assert arm.trajectories.take() == []


def test_trajectories_carry_the_target_its_velocity_and_how_to_brake(arm: FaultyArm, robot: Robot) -> None:
    robot.connect()
    robot.arm()
    arm.trajectories.take()
    goal = HOME + np.array([0.02, 0, 0, 0.02, 0, 0, 0])
    sent = run(robot, goal, 30, gripper=0.02)
    time.sleep(0.05)
    received = arm.trajectories.take()
    assert len(received) == len(sent)
    limit = robot.spec.guard.acceleration_fraction * robot.spec.array("acc")
    moving = 0
    for message, what in zip(received, sent, strict=True):
        assert tuple(message.joint_names) == ARM
        assert abs(message.header.stamp.ns - time.time_ns()) < 5e9
        first, last = message.points
        assert what.q is not None
        assert what.dq is not None
        np.testing.assert_array_equal(first.positions, what.q)
        np.testing.assert_array_equal(first.velocities, what.dq)
        assert not any(last.velocities)
        braking = 1e-9 * (last.time_from_start.ns - first.time_from_start.ns)
        assert (np.abs(what.dq) / braking <= limit * 1.001).all()
        np.testing.assert_allclose(last.positions, what.q + 0.5 * braking * what.dq, atol=1e-12)
        moving += bool(np.any(what.dq))
    assert moving > 5
    assert arm.grips.take()[-1].points[-1].positions[0] < 0.03


def test_the_stop_topic_latches_and_arming_waits_for_its_release(arm: FaultyArm, robot: Robot) -> None:
    robot.connect()
    robot.arm()
    arm.stop.write(Bool(True))
    deadline = time.monotonic() + 5.0
    while not robot.latched and time.monotonic() < deadline:
        robot.write(command(HOME))
        time.sleep(0.01)
    assert robot.latched == "/stop says stop"
    assert "latched" in robot.write(command(HOME + 0.1)).reasons
    robot.clear("test")
    with pytest.raises(RobotError, match="/stop says stop"):
        robot.arm()
    arm.stop.write(Bool(False))
    time.sleep(0.3)
    robot.arm()
    assert robot.state is LifeState.RUNNING


def test_silence_holds_and_going_on_needs_nobody(arm: FaultyArm, robot: Robot) -> None:
    robot.connect()
    robot.arm()
    run(robot, HOME, 3)
    arm.frozen.set()
    time.sleep(0.4)
    robot.write(command(HOME + 0.3))
    states = [robot.state]
    arm.frozen.clear()
    time.sleep(0.1)
    run(robot, HOME, 5)
    assert [*states, robot.state] == [LifeState.HOLD, LifeState.RUNNING]


@pytest.mark.parametrize(
    ("spoil", "counted"),
    [
        (lambda arm: arm.position.pop(), "shape"),
        (lambda arm: arm.position.__setitem__(2, float("nan")), "finite"),
        (lambda arm: setattr(arm, "skew_ns", -500_000_000), "order"),
    ],
)
def test_bad_states_are_dropped_and_many_of_them_trip(
    arm: FaultyArm, robot: Robot, spoil: object, counted: str
) -> None:
    robot.connect()
    robot.arm()
    assert callable(spoil)
    spoil(arm)
    deadline = time.monotonic() + 5.0
    while not robot.latched and time.monotonic() < deadline:
        robot.write(command(HOME))
        time.sleep(0.01)
    assert counted in robot.latched
    assert robot.counters[counted] >= 20


def test_a_jump_of_the_robots_clock_is_survived(arm: FaultyArm, robot: Robot) -> None:
    robot.connect()
    robot.arm()
    arm.skew_ns = -3600 * 10**9
    run(robot, HOME, 30)
    assert robot.state is LifeState.RUNNING
    assert not robot.latched


def test_absence_and_wrong_joints_are_explained(network: Network) -> None:
    robot = make_robot(spec_for(network))
    with pytest.raises(RobotError, match=r"does not answer: Nobody publishes rt/joint_states within 0"):
        robot.connect(timeout_s=0.2)
    fake = FaultyArm(network)
    fake.names = ["shoulder", *fake.names[1:]]
    try:
        with pytest.raises(RobotError, match=r"lacks joints \['panda_joint7'\]; it has .*'shoulder'"):
            robot.connect(timeout_s=1.0)
    finally:
        fake.close()
    assert robot.state is LifeState.DISCONNECTED
