from __future__ import annotations

import ast
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardware.messages import Command, Observation
from hardware.robot import Robot, RobotError, make_robot
from hardware.robots.kinematic import KinematicConfig, KinematicRobot
from hardware.spec import LifeState, RobotSpec, StopMode
from robopolicy.errors import ConfigError
from tests.hardware.fakes import FakeClock, small_spec

HARDWARE = Path(__file__).resolve().parents[2] / "hardware"


class Watched(KinematicRobot):
    """Remembers everything that went over its wire."""

    def __init__(self, spec: RobotSpec, clock: FakeClock, lag_s: float = 0.0) -> None:
        super().__init__(KinematicConfig(lag_s=lag_s), spec=spec, clock=clock, sleep=clock.sleep)
        self.sent: list[Command] = []
        self.stops: list[StopMode] = []
        self.enabled = 0

    def _enable(self) -> None:
        self.enabled += 1

    def _send(self, command: Command) -> None:
        self.sent.append(command)
        super()._send(command)

    def _stopped(self, how: StopMode) -> None:
        self.stops.append(how)


def running(**changes: Any) -> tuple[Watched, FakeClock]:
    clock = FakeClock()
    robot = Watched(small_spec(**changes), clock)
    robot.connect()
    robot.arm()
    return robot, clock


def drive(robot: Watched, clock: FakeClock, target: float, ticks: int) -> Command:
    sent = robot.sent[-1]
    for _ in range(ticks):
        clock.sleep(0.01)
        q = np.full(robot.spec.size, target)
        sent = robot.write(Command(t_ns=clock.now, valid_until_ns=clock.now + 10**8, q=q))
    return sent


def test_connecting_sends_nothing_and_arming_starts_at_the_measured_pose() -> None:
    clock = FakeClock()
    robot = Watched(small_spec(stop="damp", interface="impedance"), clock)
    robot.connect()
    assert robot.state is LifeState.READ_ONLY
    assert robot.sent == []
    assert robot.enabled == 0
    with pytest.raises(RobotError, match="READ_ONLY: arm it before writing"):
        robot.write(None)
    measured = robot.read().q
    robot.arm(0.5)
    assert robot.state is LifeState.RUNNING
    assert robot.enabled == 1
    gains = np.array([c.kp for c in robot.sent])
    assert (np.diff(gains[:, 0]) >= 0).all()
    assert gains[0].max() < 1.0
    np.testing.assert_allclose(gains[-1], 20.0)
    assert all((np.asarray(c.q) == measured).all() for c in robot.sent)
    weights = np.array([c.weight for c in robot.sent])
    assert weights[0] < 0.3
    assert weights[-1] == 1.0


def test_write_returns_what_was_sent_and_why() -> None:
    robot, clock = running()
    sent = drive(robot, clock, 0.5, 1)
    assert sent is robot.sent[-1]
    assert "velocity" in sent.reasons
    drive(robot, clock, 0.5, 100)
    assert drive(robot, clock, 0.5, 1).reasons == ()
    np.testing.assert_allclose(robot.read().q, 0.5)


def test_stop_is_idempotent_gets_only_stricter_and_clearing_needs_an_operator_and_arming() -> None:
    robot, clock = running(stop="damp", interface="impedance")
    drive(robot, clock, 0.5, 10)
    robot.stop("hold", "first")
    assert robot.state is LifeState.HOLD
    robot.stop("damp", "second")
    robot.stop("hold", "third")
    assert robot.state is LifeState.DAMPED
    assert robot.latched == "first"
    assert robot.stops == ["hold", "damp"]
    sent = drive(robot, clock, 0.5, 5)
    assert sent.kp is not None
    assert not sent.kp.any()
    with pytest.raises(RobotError, match="operator"):
        robot.clear("")
    with pytest.raises(RobotError, match="arms from READ_ONLY; it is DAMPED, latched: first"):
        robot.arm()
    robot.clear("ada")
    assert robot.state is LifeState.READ_ONLY
    with pytest.raises(RobotError, match="arm it"):
        robot.write(None)
    robot.arm()
    assert robot.state is LifeState.RUNNING


def test_stop_works_from_every_state_and_thread() -> None:
    clock = FakeClock()
    robot = Watched(small_spec(), clock)
    robot.stop(reason="before connecting")
    assert robot.state is LifeState.DISCONNECTED
    robot.connect()  # begins with a clean guard
    robot.stop(reason="read only")
    with pytest.raises(RobotError, match="latched: read only"):
        robot.arm()
    robot.clear("ada")
    robot.arm()
    thread = threading.Thread(target=robot.stop, kwargs={"reason": "another thread"})
    thread.start()
    thread.join()
    assert robot.state is LifeState.HOLD
    assert robot.latched == "another thread"
    assert robot.sent[-1].reasons[-1] == "latched"


def test_stop_does_not_wait_for_a_driver_that_hangs() -> None:
    robot, _ = running()
    lock = robot._Robot__wire  # type: ignore[attr-defined]
    with lock:
        robot.stop(reason="hung")
        assert robot.latched == "hung"


def test_stop_while_arming_is_told() -> None:
    clock = FakeClock()
    robot = Watched(small_spec(arm_ramp_s=1.0), clock)
    robot.connect()
    ticks: list[int] = []

    def watch() -> None:
        ticks.append(clock.now)
        if len(ticks) == 10:
            robot.stop(reason="no")

    with pytest.raises(RobotError, match="stopped while arming: no"):
        robot.arm(every_tick=watch)
    assert len(ticks) == 10
    assert robot.state is LifeState.HOLD


def test_holding_ends_by_itself_and_faults_do_not() -> None:
    robot, clock = running()
    drive(robot, clock, 0.5, 5)
    clock.sleep(0.01)
    robot.write(None)
    assert robot.state is LifeState.HOLD
    drive(robot, clock, 0.5, 1)
    assert robot.state is LifeState.RUNNING
    drive(robot, clock, float("nan"), 1)
    assert robot.state is LifeState.FAULT
    drive(robot, clock, 0.5, 5)
    assert robot.state is LifeState.FAULT


def test_closing_brakes_first_and_is_idempotent() -> None:
    robot, clock = running()
    drive(robot, clock, 1.0, 30)
    assert np.asarray(robot.sent[-1].dq).any()
    robot.close()
    robot.close()
    assert robot.state is LifeState.DISCONNECTED
    assert not np.asarray(robot.sent[-1].dq).any()
    robot, clock = running(stop="damp", interface="impedance")
    begun = clock.now
    robot.close()
    assert clock.now - begun >= 0.99e9
    assert all(not np.asarray(c.kp).any() for c in robot.sent[-90:])


def test_arming_outside_the_limits_is_refused_by_name() -> None:
    clock = FakeClock()
    robot = Watched(small_spec(), clock)
    robot._q = np.array([0.0, 2.5])
    robot._target = robot._q
    robot.connect()
    with pytest.raises(RobotError, match=r"elbow at 2\.500 rad, allowed \[-2\.000, 2\.000\]"):
        robot.arm()
    assert robot.sent == []


class Sagging(Watched):
    """Takes long to let go of its own controller, and sinks meanwhile."""

    def _enable(self) -> None:
        self._sleep(0.5)
        self._q = self._target = self._q - 0.2


def test_arming_holds_the_pose_that_the_robot_has_once_it_is_enabled() -> None:
    clock = FakeClock()
    robot = Sagging(small_spec(stop="damp", interface="impedance"), clock)
    robot.connect()
    robot.arm()
    assert all((np.asarray(command.q) == -0.2).all() for command in robot.sent)


def test_ticks_that_come_late_do_not_disturb_arming() -> None:
    clock = FakeClock()
    robot = Watched(small_spec(stop="damp", interface="impedance", arm_ramp_s=0.3), clock)
    robot.connect()
    robot.arm(every_tick=lambda: clock.sleep(0.05))  # five periods, half the timeout
    assert robot.state is LifeState.RUNNING
    assert "stale_command" not in robot.counters


class Complaining(Watched):
    """A robot that says that it wants to be stopped."""

    complaint = ""

    def _receive(self, timeout_s: float) -> Observation | None:
        if self.complaint:
            self._fault(self.complaint, "damp")
        return super()._receive(timeout_s)


def test_a_driver_can_trip_from_what_it_receives() -> None:
    clock = FakeClock()
    robot = Complaining(small_spec(stop="hold", interface="impedance"), clock)
    robot.connect()
    robot.arm()
    drive(robot, clock, 0.5, 5)
    robot.complaint = "too hot"
    clock.sleep(0.01)
    sent = robot.write(Command(t_ns=clock.now, valid_until_ns=clock.now + 10**8, q=np.ones(2)))
    assert "latched" in sent.reasons
    assert robot.state is LifeState.DAMPED
    assert robot.latched == "too hot"
    assert robot.stops == ["damp"]
    with pytest.raises(TypeError, match="overrides arm"):
        type("Bad", (Robot,), {"arm": lambda self: None})


class Silent(Watched):
    def _receive(self, timeout_s: float) -> Observation | None:
        return None


def test_a_silent_robot_does_not_connect() -> None:
    clock = FakeClock()
    with pytest.raises(RobotError, match="no observation"):
        Silent(small_spec(), clock).connect()


def _calls_send(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "_send"


def test_nothing_can_bypass_the_guard() -> None:
    for name in ("write", "stop", "arm", "state"):
        with pytest.raises(TypeError, match=f"overrides {name}"):
            type("Bad", (Robot,), {name: lambda self: None})
    drivers, callers = set(), []
    for path in HARDWARE.rglob("*.py"):
        for kind in (
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)
        ):
            methods = {node.name for node in kind.body if isinstance(node, ast.FunctionDef)}
            if {"_open", "_send"} <= methods:
                drivers.add(kind.name)
                callers += [kind.name for node in ast.walk(kind) if _calls_send(node)]
    assert {"Robot", "KinematicRobot"} <= drivers
    assert callers == ["Robot"]
    assert not hasattr(running()[0], "guard")


def test_a_driver_is_made_from_the_yaml_and_errors_list_the_choices() -> None:
    assert isinstance(make_robot(small_spec()), KinematicRobot)
    with pytest.raises(ConfigError, match=r"Unknown driver 'kinematik'.*kinematic"):
        make_robot(small_spec(driver={"name": "kinematik"}))
    with pytest.raises(ConfigError, match=r"Unknown key 'lag'.*lag_s"):
        make_robot(small_spec(driver={"name": "kinematic", "lag": 1.0}))
