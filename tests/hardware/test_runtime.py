from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hardware.chunks import ChunkPlayer, PlayerConfig
from hardware.link import RobotLink, action_size, tick_of
from hardware.messages import ActionChunk, Measured, Observation
from hardware.ring import Ring
from hardware.robot import RobotError
from hardware.robots.kinematic import KinematicConfig, KinematicRobot
from hardware.runtime import ControlLoop
from hardware.spec import LifeState, RobotSpec
from tests.hardware.fakes import small_spec

ROOT = Path(__file__).resolve().parents[2]
SAFE = (LifeState.HOLD, LifeState.DAMPED, LifeState.FAULT)
# The machine that runs tests may be busy: what is asserted is the timeout, two ticks, and this.
BUSY_NS = 150_000_000


class PolicyProcess:
    """A policy process, its control process and what the latter does."""

    def __init__(self, spec: RobotSpec, directory: Path, fault: str) -> None:
        self.spec, self.directory = spec, directory
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "hardware.sim.faulty_policy",
                json.dumps(spec.to_dict()),
                str(directory),
                fault,
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.control = int(self.line())
        self.ticks = Ring.attach(directory / "ticks")

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def until(self, states: tuple[LifeState, ...], *, after_ns: int, timeout_s: float = 5.0) -> int:
        """The time of the first tick after `after_ns` in one of the states."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for record in self.ticks.last(1000):
                if int(record["t_ns"]) >= after_ns and LifeState(int(record["state"])) in states:
                    return int(record["t_ns"])
            time.sleep(0.005)
        raise AssertionError(f"never in {states}; last {tick_of(self.ticks.last(1)[0])}")

    def last(self) -> dict[str, object]:
        return dict(tick_of(self.ticks.last(1)[0]))

    def end(self) -> None:
        for process in (self.process.pid, self.control):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(params=["hold", pytest.param("damp", marks=pytest.mark.slow)])
def spec(request: pytest.FixtureRequest) -> RobotSpec:
    interface = "impedance" if request.param == "damp" else "position"
    return small_spec(stop=request.param, interface=interface)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[object]:
    started: list[PolicyProcess] = []

    def make(spec: RobotSpec, fault: str = "none") -> PolicyProcess:
        started.append(PolicyProcess(spec, tmp_path / "run", fault))
        return started[-1]

    yield make
    for process in started:
        process.end()


def check_time(policy: PolicyProcess, fault: str, begun_ns: int, timeout_s: float) -> None:
    safe = policy.until(SAFE, after_ns=begun_ns)
    allowed = round(1e9 * timeout_s) + 2 * policy.spec.period_ns
    took = f"safe after {(safe - begun_ns) / 1e6:.1f} ms, allowed {allowed / 1e6:.0f}"
    print(f"{fault}, {policy.spec.stop}: {took}")
    assert safe - begun_ns <= allowed + BUSY_NS
    expected = LifeState.DAMPED if policy.spec.stop == "damp" else LifeState.HOLD
    assert policy.last()["state"] in (expected, LifeState.FAULT)


def test_killed_policy(start, spec: RobotSpec) -> None:
    policy = start(spec)
    policy.until((LifeState.RUNNING,), after_ns=0)
    time.sleep(0.4)
    begun = time.monotonic_ns()
    os.kill(policy.process.pid, signal.SIGKILL)
    check_time(policy, "killed", begun, spec.policy_timeout_s)
    time.sleep(0.3)
    tick = policy.last()
    assert not np.asarray(tick["dq"]).any()  # at rest, with the control process alive and ticking
    assert time.monotonic_ns() - int(tick["t_ns"]) < BUSY_NS


def test_stopped_policy_and_its_return(start, spec: RobotSpec) -> None:
    policy = start(spec)
    policy.until((LifeState.RUNNING,), after_ns=0)
    time.sleep(0.4)
    begun = time.monotonic_ns()
    os.kill(policy.process.pid, signal.SIGSTOP)
    check_time(policy, "stopped", begun, spec.policy_timeout_s)
    os.kill(policy.process.pid, signal.SIGCONT)
    if spec.stop == "hold":  # comes back by itself
        policy.until((LifeState.RUNNING,), after_ns=time.monotonic_ns())
    else:  # stays damped until an operator clears it
        time.sleep(0.3)
        assert policy.last()["state"] is LifeState.DAMPED


def test_slow_policy(start, spec: RobotSpec) -> None:
    policy = start(spec, "slow")
    check_time(policy, "slow", int(policy.line()), spec.policy_timeout_s)


def test_policy_that_sends_nan(start, spec: RobotSpec) -> None:
    policy = start(spec, "nan")
    begun = int(policy.line())
    check_time(policy, "nan", begun, 0.0)
    time.sleep(0.2)
    assert "not finite" in str(policy.last()["latched"])


def test_stop_file_latches_and_clearing_needs_arming_again(tmp_path: Path) -> None:
    spec = small_spec()
    with RobotLink(spec, tmp_path / "run") as link:
        link.arm()
        (tmp_path / "run" / "STOP").touch()
        time.sleep(0.1)
        assert link.state is LifeState.HOLD
        assert link.ticks()[-1]["latched"] == "the file STOP exists"
        with pytest.raises(RobotError, match="operator"):
            link.clear(" ")
        link.clear("ada")
        assert link.state is LifeState.READ_ONLY
        link.arm()
        assert link.state in (LifeState.RUNNING, LifeState.HOLD)


def test_stop_while_arming(tmp_path: Path) -> None:
    spec = small_spec(arm_ramp_s=2.0)
    with RobotLink(spec, tmp_path / "run") as link:
        link._request("arm", ramp_s=2.0)
        time.sleep(0.2)
        assert link.state is LifeState.ARMING
        link.stop(reason="changed my mind")
        time.sleep(0.2)
        assert link.state is LifeState.HOLD


def test_a_chunk_is_played_to_its_end_and_then_held(tmp_path: Path) -> None:
    spec = small_spec(policy_timeout_s=5.0)
    with RobotLink(spec, tmp_path / "run") as link:
        link.arm()
        now = time.monotonic_ns()
        rows = np.linspace(0.0, 0.2, 11)[:, None] * np.ones(2)
        link.submit(ActionChunk(t_obs_ns=now, t0_ns=now, dt_ns=50_000_000, actions=rows))
        deadline = time.monotonic() + 5.0
        while link.ticks()[-1]["starved"] == 0 and time.monotonic() < deadline:
            link.beat()
            time.sleep(0.02)
        time.sleep(0.2)
        tick = link.ticks()[-1]
        assert tick["starved"] == 1, dict(tick)
        assert tick["state"] is LifeState.HOLD
        np.testing.assert_allclose(link.observe()[-1].q, 0.2, atol=0.03)
        with pytest.raises(RobotError, match=r"\[1 to 128, 2\], got \[3, 5\]"):
            link.submit(ActionChunk(t_obs_ns=now, t0_ns=now, dt_ns=1, actions=np.zeros((3, 5))))


class Streaming(KinematicRobot):
    """Tells a pose at every tick, and a picture that changes its size."""

    def _receive(self, timeout_s: float) -> Observation | None:
        seen = super()._receive(timeout_s)
        if seen is not None:
            side = 4 if seen.seq < 20 else 5
            seen.streams = {
                "object": Measured(seen.t_ns - 1000, np.full(7, float(seen.seq))),
                "eye": Measured(seen.seq // 5, np.full((side, side, 3), seen.seq % 256, np.uint8)),
            }
        return seen


def test_streams_reach_the_policy_with_their_own_stamps(tmp_path: Path) -> None:
    spec = small_spec(control_hz=1000.0)
    link = RobotLink(spec, tmp_path / "run")
    link.close()
    assert link.streams() == ()
    assert link.stream("object") == []
    robot = Streaming(KinematicConfig(), spec=spec)
    robot.connect()
    loop = ControlLoop(robot, ChunkPlayer(PlayerConfig(), action_size(spec)), tmp_path / "run")
    for _ in range(40):
        loop.tick()
        time.sleep(0.001)
    assert link.streams() == ("eye", "object")
    poses, pictures = link.stream("object", 10), link.stream("eye", 50)
    states = {seen.seq: seen.t_ns for seen in link.observe(50)}
    assert len(poses) == 10
    for pose in poses:
        assert pose.t_ns == states[int(pose.value[0])] - 1000
    stamps = [picture.t_ns for picture in pictures]
    assert stamps == sorted(set(stamps))  # each once
    assert {picture.value.shape for picture in pictures} == {(4, 4, 3)}
    robot.close()


def test_an_unknown_driver_is_told(tmp_path: Path) -> None:
    with pytest.raises(RobotError, match="Unknown driver 'kinematics'"):
        RobotLink(small_spec(driver={"name": "kinematics"}), tmp_path / "run")


def test_control_process_needs_no_torch() -> None:
    code = "import sys, hardware.runtime; sys.exit('torch' in sys.modules or 'envs' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
