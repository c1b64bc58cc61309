"""The UR driver and the unmodified ur_rtde client, against the simulated arm in a process of its own."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")
pytest.importorskip("rtde_control", reason="UR arms are the extra robopolicy[ur]")

from hardware.extras import MissingExtra
from hardware.messages import Command
from hardware.process import Simulated
from hardware.robot import Robot, RobotError, make_robot
from hardware.spec import JointSpec, LifeState, RobotSpec
from robopolicy.errors import ConfigError

NAMES = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
# Its ports are fixed, so every test process listens on a loopback address of its own.
HOST = f"127.{1 + os.getpid() % 250}.{1 + os.getpid() // 250 % 250}.1"


def spec(**driver: object) -> RobotSpec:
    joints = tuple(
        JointSpec(name=f"{name}_joint", lower=-6.28, upper=6.28, vel=3.14, acc=20.0, effort=150.0)
        for name in NAMES
    )
    return RobotSpec(
        name="ur5e",
        driver={"name": "ur", "host": HOST, **driver},
        joints=joints,
        control_hz=125.0,
        arm_ramp_s=0.1,
        cmd_timeout_s=0.3,
        obs_timeout_s=0.3,  # test machines are busy
    )


@pytest.fixture(scope="module")
def arm() -> Iterator[Simulated]:
    with Simulated("hardware.sim.ur_rtde", f"--host={HOST}") as arm:
        yield arm


@pytest.fixture
def robot(arm: Simulated) -> Iterator[Robot]:
    robot = make_robot(spec())
    robot.connect()
    yield robot
    robot.close()


def run(robot: Robot, seconds: float, q: np.ndarray) -> None:
    due = time.monotonic()
    for _ in range(round(seconds * robot.spec.control_hz)):
        robot.read()
        now = time.monotonic_ns()
        robot.write(Command(t_ns=now, valid_until_ns=now + 10**9, q=q))
        due += 1.0 / robot.spec.control_hz
        time.sleep(max(0.0, due - time.monotonic()))


def test_the_arm_follows_and_states_count_up(robot: Robot) -> None:
    first = robot.read(1.0)
    assert robot.read(1.0).seq > first.seq
    robot.arm()
    goal = first.q + np.array([0.1, -0.05, 0.05, 0.1, -0.1, 0.1])
    run(robot, 1.5, goal)
    np.testing.assert_allclose(robot.read(1.0).q, goal, atol=5e-3)
    assert robot.state is LifeState.RUNNING


def test_silence_stops_the_arm_by_its_own_watchdog(robot: Robot) -> None:
    robot.arm()
    start = robot.read(1.0).q
    run(robot, 0.5, start + 0.5)
    time.sleep(0.4)  # over three periods of the watchdog
    first = robot.read(1.0).q
    time.sleep(0.2)
    np.testing.assert_allclose(robot.read(1.0).q, first, atol=1e-6)


def test_a_frozen_robot_is_noticed(arm: Simulated, robot: Robot) -> None:
    robot.arm()
    hold = robot.read(1.0).q
    run(robot, 0.1, hold)
    os.kill(arm.process.pid, signal.SIGSTOP)
    try:
        time.sleep(0.4)
        run(robot, 0.02, hold)
        assert robot.state is LifeState.HOLD
        assert robot.counters["stale_observation"] > 0
    finally:
        os.kill(arm.process.pid, signal.SIGCONT)


def test_absence_and_wrong_settings_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RobotError, match=r"does not answer at 127\.0\.0\.251"):
        make_robot(spec(host="127.0.0.251")).connect()
    with pytest.raises(ConfigError, match="lookahead_s"):
        make_robot(spec(lookahead_s=1.0))
    with pytest.raises(ConfigError, match="six joints"):
        make_robot(spec().replace(joints=spec().joints[1:]))
    monkeypatch.setitem(sys.modules, "rtde_receive", None)
    with pytest.raises(MissingExtra, match=r"robopolicy\[ur\]"):
        make_robot(spec()).connect()
