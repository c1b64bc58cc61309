"""The G1 driver on the wire, against the simulated robot stepped by a thread of this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")

from hardware.messages import Command
from hardware.robot import Robot, RobotError, make_robot
from hardware.robots.unitree_g1 import MOTORS, UPPER_BODY, WEIGHT_SLOT
from hardware.robots.unitree_rpc import SELECT_MODE, SET_VELOCITY, Loco, MotionSwitcher, Service
from hardware.sim.g1 import MODE_MACHINE, G1Settings, SimulatedG1
from hardware.spec import BaseSpec, LifeState, RobotSpec
from hardware.transport.dds import STATE, Participant, Quality
from hardware.transport.idl_unitree import LowCmd, LowState, LowStateIdl
from hardware.transport.network import Network
from robopolicy.errors import ConfigError
from tests.hardware.wire import free_network

pytestmark = pytest.mark.sim

PATIENCE = 0.3


class World:
    """The simulated robot in real time, and everything that is sent to it."""

    def __init__(self) -> None:
        self.network: Network = free_network()
        self.participant = Participant(self.network)
        self.g1 = SimulatedG1(G1Settings(), self.participant)
        self.low = self.participant.reader("rt/lowcmd", LowCmd, Quality(reliable=False, depth=3000))
        self.overlay = self.participant.reader("rt/arm_sdk", LowCmd, Quality(reliable=False, depth=3000))
        self.paused = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._closing.is_set():
            if not self.paused.is_set():
                self.g1.step(time.time_ns())
            due = max(due + 0.002, time.monotonic() - 0.1)
            time.sleep(max(0.0, due - time.monotonic()))

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self.participant.close()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


def g1(
    world: World, mode: str = "low", joints: tuple[str, ...] = MOTORS, base: BaseSpec | None = None
) -> Robot:
    spec = RobotSpec.load("g1_sim")
    driver = {"name": "unitree_g1", "network": {"domain": world.network.domain}, "mode": mode, "fade_s": 0.2}
    kept = tuple(joint for joint in spec.joints if joint.name in joints)
    # Patient and slow, because test machines are busy.
    patient = spec.replace(control_hz=100.0, cmd_timeout_s=PATIENCE, obs_timeout_s=PATIENCE, arm_ramp_s=0.1)
    return make_robot(patient.replace(driver=driver, joints=kept, base=base))


def run(robot: Robot, seconds: float, q: np.ndarray | None = None, base: np.ndarray | None = None) -> None:
    due = time.monotonic()
    for _ in range(round(seconds * robot.spec.control_hz)):
        now = time.monotonic_ns()
        robot.write(Command(t_ns=now, valid_until_ns=now + 10**9, q=q, base=base))
        due += 1.0 / robot.spec.control_hz
        time.sleep(max(0.0, due - time.monotonic()))


def until(what: Callable[[], bool], robot: Robot, timeout_s: float = 3.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        run(robot, 0.02)


def test_connecting_sends_nothing_and_reads_every_joint(world: World) -> None:
    with g1(world) as robot:
        seen = robot.read(1.0)
        np.testing.assert_allclose(seen.q, world.g1.data.qpos[world.g1._q], atol=5e-3)
        assert robot.spec.names == MOTORS
        assert abs(float(np.linalg.norm(seen.streams["quaternion"].value)) - 1.0) < 1e-3
        assert robot.state is LifeState.READ_ONLY
        assert world.g1.mode == "ai"
        assert world.low.take() == []


def test_arming_releases_the_robots_controller_and_commands_are_followed(world: World) -> None:
    with g1(world) as robot:
        robot.arm()
        assert world.g1.mode == ""
        start = robot.read().q
        goal = start.copy()
        goal[MOTORS.index("left_elbow_joint")] += 0.1
        run(robot, 1.0, goal)
        reached = robot.read().q
        moved = reached - start
        assert moved[MOTORS.index("left_elbow_joint")] > 0.05
        assert np.abs(np.delete(moved, MOTORS.index("left_elbow_joint"))).max() < 0.05
        assert not robot.latched
    sent = world.low.take()
    assert {int(m.record["mode_machine"]) for m in sent} == {MODE_MACHINE}
    assert world.g1.ignored == {"mode_machine": 0, "mode": 0}
    assert world.g1.rejected == 0
    assert (sent[-1].motors["mode"][: len(MOTORS)] == 1).all()
    assert (sent[-1].motors["mode"][len(MOTORS) :] == 0).all()


def test_a_stop_damps_for_a_second_at_least(world: World) -> None:
    robot = g1(world)
    robot.connect()
    robot.arm()
    run(robot, 0.05, robot.read().q)
    world.low.take()
    begun = time.monotonic()
    robot.stop(reason="test")
    robot.close()
    assert time.monotonic() - begun >= 1.0
    sent = world.low.take()
    assert len(sent) > 0.7 * robot.spec.control_hz
    for message in sent:
        motors = message.motors[: len(MOTORS)]
        assert not motors["kp"].any()
        np.testing.assert_allclose(motors["tau"], 0.0, atol=1e-6)
        assert (motors["kd"] >= 2.0).all()
        assert (motors["kd"] <= 8.0).all()
    ages = [m.sample_info.source_timestamp for m in (sent[0], sent[-1])]
    assert ages[1] - ages[0] > 0.9e9


def test_without_commands_the_robot_damps_itself(world: World) -> None:
    with g1(world) as robot:
        robot.arm()
        run(robot, 0.1, robot.read().q)
        assert np.abs(world.g1.data.ctrl).max() > 1.0
        time.sleep(0.4)
        assert world.g1._low is not None
        world.paused.set()
        time.sleep(0.02)
        dq = world.g1.data.qvel[world.g1._v].copy()
        torque = world.g1._released(time.time_ns(), world.g1.data.qpos[world.g1._q], dq)
        np.testing.assert_allclose(torque, -3.0 * dq)
        world.paused.clear()


def test_a_control_process_that_stalls_does_not_pull_the_robot_back(world: World) -> None:
    with g1(world) as robot:
        robot.arm()
        hold = robot.read().q
        run(robot, 0.2, hold)
        time.sleep(4 * PATIENCE)  # the robot damps itself and sinks meanwhile
        sunk = np.abs(robot.read(1.0).q - hold).max()
        assert sunk > 0.1
        world.low.take()
        run(robot, 0.3, hold)
        assert robot.state is LifeState.DAMPED
        assert "nothing was sent for" in robot.latched
        for message in world.low.take():
            motors = message.motors[: len(MOTORS)]
            assert not motors["kp"].any()
            assert not motors["tau"].any()


def test_silence_of_the_robot_damps(world: World) -> None:
    with g1(world) as robot:
        robot.arm()
        hold = robot.read().q
        run(robot, 0.05, hold)
        world.paused.set()
        time.sleep(PATIENCE + 0.05)
        run(robot, 0.02, hold)
        assert robot.state is LifeState.DAMPED
        assert "no observation" in robot.latched
        world.paused.clear()


class Broken(LowState):
    """States with one bit wrong."""

    def serialize(self, *_: object, **__: object) -> bytes:
        data = bytearray(super().serialize())
        data[300] ^= 1
        return bytes(data)


Broken.__idl__ = LowStateIdl.__idl__


def test_corrupt_states_are_dropped_and_many_trip(world: World) -> None:
    other = Participant(world.network)
    writer = other.writer("rt/lowstate", Broken, STATE)
    with g1(world) as robot:
        writer.wait_matched(5.0)
        robot.arm()
        hold = robot.read().q
        for _ in range(200):
            writer.write(Broken())
            run(robot, 0.01, hold)
            if robot.latched:
                break
        assert "rejected" in robot.latched
        assert "crc" in robot.latched
        assert robot.counters["crc"] >= 20
    other.close()


def test_commands_for_another_machine_or_mode_are_ignored(world: World) -> None:
    other = Participant(world.network)
    writer = other.writer("rt/lowcmd", LowCmd, STATE)
    writer.wait_matched(5.0)
    message = LowCmd()
    for machine, counter in ((MODE_MACHINE, "mode"), (MODE_MACHINE + 1, "mode_machine")):
        message.record["mode_machine"] = machine
        deadline = time.monotonic() + 3.0
        while world.g1.ignored[counter] == 0 and time.monotonic() < deadline:
            writer.write(message)
            time.sleep(0.005)
        assert world.g1.ignored[counter] > 0
    assert world.g1._low is None
    other.close()


def test_the_overlay_fades_in_and_out_and_leaves_the_legs_alone(world: World) -> None:
    robot = g1(world, "arm", UPPER_BODY)
    robot.connect()
    legs = world.g1.data.qpos[world.g1._q[:12]].copy()
    robot.arm()
    hold = robot.read().q
    goal = hold.copy()
    goal[robot.spec.index("right_elbow_joint")] += 0.15
    run(robot, 0.8, goal)
    moved = robot.read().q - hold
    assert moved[robot.spec.index("right_elbow_joint")] > 0.07
    robot.close()
    weights = np.array([m.motors["q"][WEIGHT_SLOT] for m in world.overlay.take()])
    top = int(weights.argmax())
    assert weights.max() == 1.0
    assert weights[-1] == 0.0
    assert weights[0] < 0.2
    assert (np.diff(weights[:top]) >= 0).all()
    assert np.abs(np.diff(weights)).max() < 0.25
    assert world.g1.mode == "ai"
    assert world.low.take() == []
    np.testing.assert_allclose(world.g1.data.qpos[world.g1._q[:12]], legs, atol=0.02)


def test_walking_ends_by_itself(world: World) -> None:
    with g1(world, "loco", base=BaseSpec()) as robot:
        robot.arm()
        start = world.g1.data.mocap_pos[0].copy()
        run(robot, 1.0, base=np.array([0.3, 0.0, 0.0]))
        assert world.g1.data.mocap_pos[0, 0] - start[0] > 0.1
        time.sleep(0.5)  # nobody writes: the last velocity has run out
        there = world.g1.data.mocap_pos[0].copy()
        time.sleep(0.1)
        np.testing.assert_array_equal(world.g1.data.mocap_pos[0], there)
        robot.stop("damp", reason="test")
        until(lambda: world.g1.fsm == 1, robot)
    assert world.low.take() == []


def test_services_answer_and_refuse(world: World) -> None:
    with Participant(world.network) as participant:
        switcher, loco = MotionSwitcher(participant), Loco(participant)
        assert switcher.mode() == "ai"
        assert loco.state() == 500
        switcher.release()
        assert switcher.mode() == ""
        service = Service(participant, "motion_switcher")
        service.call(SELECT_MODE, {"name": "ai"})
        assert switcher.mode() == "ai"
        with pytest.raises(RobotError, match=r"function 4711 is not implemented \(code 3203\)"):
            service.call(4711)
        with pytest.raises(RobotError, match="refused"):
            Service(participant, "sport").call(SET_VELOCITY, {"velocity": "fast"})
        for duration in (0.0, 1.5, 864000.0):
            with pytest.raises(RobotError, match="at most 1 s"):
                loco.walk(np.zeros(3), duration)
        with pytest.raises(RobotError, match="service voice is not there"):
            Service(participant, "voice").call(1, timeout_s=0.1)


def test_what_cannot_be_driven_is_refused() -> None:
    spec = RobotSpec.load("g1_sim")
    with pytest.raises(ConfigError, match=r"mode low commands every motor; missing: .*left_hip_pitch"):
        make_robot(spec.replace(joints=spec.joints[1:]))
    with pytest.raises(ConfigError, match=r"mode arm: Unknown joint .left_hip_pitch_joint"):
        make_robot(spec.replace(driver={"name": "unitree_g1", "mode": "arm"}))
    with pytest.raises(ConfigError, match="mode loco needs a base"):
        make_robot(spec.replace(driver={"name": "unitree_g1", "mode": "loco"}))
    with pytest.raises(ConfigError, match="walk_s"):
        make_robot(spec.replace(driver={"name": "unitree_g1", "walk_s": 5.0}))
