"""The simulated G1 in a process of its own: what happens to it when its controller dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import mujoco
import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")

from hardware.process import Simulated
from hardware.robots.unitree_g1 import MOTORS
from hardware.sim.g1 import G1Settings, SimulatedG1, Targets
from hardware.transport.dds import SENSOR, STATE, Participant, Reader
from hardware.transport.idl_unitree import LowCmd, LowCmdIdl, LowState
from robopolicy.errors import ConfigError
from tests.hardware.wire import free_network

pytestmark = pytest.mark.sim

CONTROLLER = """
import time
from hardware.messages import Command
from hardware.robot import make_robot
from hardware.spec import RobotSpec
spec = RobotSpec.load("g1_sim")
spec = spec.replace(driver={{**spec.driver, "network": {{"domain": {domain}}}}}, arm_ramp_s=0.1)
spec = spec.replace(control_hz=100.0, cmd_timeout_s=0.3, obs_timeout_s=0.3)  # test machines are busy
with make_robot(spec) as robot:
    robot.arm()
    hold = robot.read().q
    print("armed", flush=True)
    while True:
        robot.read(0.1)
        now = time.monotonic_ns()
        robot.write(Command(t_ns=now, valid_until_ns=now + 10**9, q=hold))
        time.sleep(0.01)
"""


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_controller_leaves_the_robot_damped(blow: signal.Signals) -> None:
    network = free_network()
    with Simulated("hardware.sim.g1", f"--domain={network.domain}"), Participant(network) as participant:
        code = CONTROLLER.format(domain=network.domain)
        controller = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        try:
            assert controller.stdout is not None
            assert controller.stdout.readline().strip() == "armed"
            states = participant.reader("rt/lowstate", LowState, SENSOR)
            states.wait_matched(5.0)
            time.sleep(0.3)
            start = positions(states)
            time.sleep(0.3)
            assert np.abs(positions(states) - start).max() < 0.06
            os.kill(controller.pid, blow)
            struck = time.monotonic()
            while np.abs(positions(states) - start).max() < 0.15:  # damped joints sink
                assert time.monotonic() - struck < 5.0
        finally:
            controller.kill()
            controller.wait()
            if controller.stdout is not None:
                controller.stdout.close()


def positions(states: Reader[LowState]) -> np.ndarray:
    states.latest()
    assert states.wait(2.0)
    newest = states.latest()
    assert newest is not None
    return newest.motors["q"][: len(MOTORS)]


class Garbled(LowCmd):
    """Half of its messages have a bit flipped."""

    count = 0

    def serialize(self, *_: object, **__: object) -> bytes:
        data = bytearray(super().serialize())
        Garbled.count += 1
        if Garbled.count % 2:
            data[40 + Garbled.count % 900] ^= 1 << Garbled.count % 8
        return bytes(data)


setattr(Garbled, "__idl__", LowCmdIdl.__idl__)  # noqa: B010


def test_every_corrupt_command_is_rejected() -> None:
    network = free_network()
    with Participant(network) as participant:
        g1 = SimulatedG1(G1Settings(), participant)
        g1.mode = ""
        other = Participant(network)
        writer = other.writer("rt/lowcmd", Garbled, STATE)
        writer.wait_matched(5.0)
        message = Garbled()
        message.record["mode_machine"] = 5
        for i in range(200):  # each is awaited: only the newest is kept
            writer.write(message)
            assert g1._low_commands.wait(2.0)
            g1.step(i * 2_000_000)
        assert g1.rejected == 100
        assert g1._low is not None
        other.close()


def test_pd_is_computed_at_every_physics_step() -> None:
    """With one stale command the torque still follows the joint, so a stiff joint settles."""
    with Participant(free_network()) as participant:
        g1 = SimulatedG1(G1Settings(timeout=100.0), participant)
        g1.mode = ""
        command = LowCmd()
        command.motors["mode"] = 1
        command.motors["q"][: len(MOTORS)] = g1._stance
        command.motors["kp"], command.motors["kd"] = 100.0, 3.0
        g1._low = Targets(command, 0)
        for i in range(1500):
            g1.step(i * 2_000_000)
        assert np.abs(g1.data.qvel).max() < 5e-3
        assert np.abs(g1.data.qpos - g1._stance).max() < 0.12


def test_on_its_feet_it_is_held_by_the_floor() -> None:
    with Participant(free_network()) as participant:
        g1 = SimulatedG1(G1Settings(hung=False), participant)
        for i in range(100):
            g1.step(i * 2_000_000)
        assert g1.data.ncon >= 4
        assert 0.7 < g1.data.qpos[2] < 0.85
        assert isinstance(g1.model, mujoco.MjModel)


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="timeout"):
        G1Settings(timeout=0.0)
