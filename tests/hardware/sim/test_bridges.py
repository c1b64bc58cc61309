"""The simulated Panda behind bridges: the same driver, guard and control process, whatever the way there."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")

from hardware.link import RobotLink
from hardware.messages import ActionChunk
from hardware.process import Simulated
from hardware.sim.client import Scene
from hardware.spec import LifeState, RobotSpec
from hardware.transport.network import Network
from tests.hardware.wire import free_network, free_port

pytestmark = pytest.mark.sim

# Patient, because test machines are busy; what is asserted is the timeout, two ticks, and this.
TIMEOUT_S, BUSY_S = 0.3, 0.25
GOAL = np.array([0.1, 0.05, -0.05, 0.1, 0.05, -0.1, 0.1])


@dataclass(frozen=True)
class Rig:
    bridge: Simulated
    link: RobotLink

    def play(self, goal: np.ndarray, until: Callable[[], object], timeout_s: float = 20.0) -> None:
        """Ask for one posture until something is so."""
        deadline = time.monotonic() + timeout_s
        rows = np.tile(np.append(goal, 0.0), (20, 1))
        while not until():
            assert time.monotonic() < deadline, f"never; the last tick: {self.link.ticks()[-1]}"
            now = time.monotonic_ns()
            self.link.submit(ActionChunk(t_obs_ns=now, t0_ns=now, dt_ns=50_000_000, actions=rows))
            time.sleep(0.05)

    def is_at(self, posture: np.ndarray) -> bool:
        """Whether the arm has come there."""
        return bool(np.abs(self.link.observe()[-1].q - posture).max() < 5e-3)

    def safe_after(self, begun_ns: int) -> float:
        """Seconds from a time to the first tick that held."""
        held = [t for t in self.link.ticks(500) if t["state"] is LifeState.HOLD and t["t_ns"] >= begun_ns]
        return 1e-9 * float(held[0]["t_ns"] - begun_ns)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    network = free_network()
    with Simulated("hardware.sim.ros2_arm", f"--domain={network.domain}", "--pose-hz=50"):
        yield network


def rosbridge(domain: str, port: int) -> tuple[list[str], dict[str, Any]]:
    pytest.importorskip("websockets", reason="rosbridge is the extra robopolicy[rosbridge]")
    command = ["hardware.sim.rosbridge", domain, f"--port={port}"]
    return command, {"name": "rosbridge", "url": f"ws://127.0.0.1:{port}"}


def zenoh(domain: str, port: int) -> tuple[list[str], dict[str, Any]]:
    pytest.importorskip("zenoh", reason="zenoh is the extra robopolicy[zenoh]")
    command = ["hardware.sim.zenoh_bridge", domain, f"--port={port}", "--namespace=/bot1"]
    return command, {"name": "zenoh", "connect": [f"tcp/127.0.0.1:{port}"], "namespace": "/bot1"}


@pytest.fixture(params=[rosbridge, zenoh])
def rig(request: pytest.FixtureRequest, network: Network, tmp_path: Path) -> Iterator[Rig]:
    command, transport = request.param(f"--domain={network.domain}", free_port())
    spec = RobotSpec.load("panda_sim")
    # A domain where nobody is: the bridge is the only way.
    driver = {**spec.driver, "transport": transport, "network": {"domain": 0}}
    spec = spec.replace(driver=driver, arm_ramp_s=0.1, cmd_timeout_s=TIMEOUT_S, obs_timeout_s=TIMEOUT_S)
    with Scene(network) as scene:
        scene.reset(11)
    with Simulated(*command) as bridge, RobotLink(spec, tmp_path) as link:
        yield Rig(bridge, link)


def test_the_arm_is_driven_stopped_and_holds_when_the_link_is_cut(rig: Rig) -> None:
    link = rig.link
    start = link.observe()[-1].q
    assert link.state is LifeState.READ_ONLY
    link.arm()

    def there() -> bool:
        seen = link.observe()[-1]
        return bool(
            np.abs(seen.q - start - GOAL).max() < 5e-3 and seen.gripper is not None and seen.gripper < 0.01
        )

    rig.play(start + GOAL, there)
    assert link.state is LifeState.RUNNING
    (pose,) = link.stream("object")
    assert 0.7 < pose.value[2] < 0.9  # the cube lies on the table

    link.stop(reason="enough")
    deadline = time.monotonic() + 10.0
    while not link.ticks()[-1]["latched"] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert link.ticks()[-1]["latched"] == "enough"
    link.clear("test")
    link.arm()

    rig.play(start, lambda: np.abs(link.observe()[-1].dq).max() > 0.02)
    os.kill(rig.bridge.process.pid, signal.SIGSTOP)  # no goodbye: as if a cable were pulled
    cut = time.monotonic_ns()
    rig.play(start, lambda: link.ticks()[-1]["state"] is LifeState.HOLD)
    assert rig.safe_after(cut) < TIMEOUT_S + 2.0 / link.spec.control_hz + BUSY_S
    assert "stale_observation" in link.ticks()[-1]["reasons"]
    os.kill(rig.bridge.process.pid, signal.SIGCONT)
    rig.play(
        start, lambda: link.state is LifeState.RUNNING and np.abs(link.observe()[-1].q - start).max() < 5e-3
    )
    os.kill(rig.bridge.process.pid, signal.SIGKILL)
    rig.play(start, lambda: link.ticks()[-1]["state"] is LifeState.HOLD)
