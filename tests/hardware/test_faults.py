"""Faults on the wire, end to end: an arm on DDS, the control process, chunks that keep coming.

Each test prints how long it took from the fault to the first tick in a safe state. What the policy's process
can do wrong is in test_runtime.py, what the G1's messages can in robots/test_unitree_g1.py.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")

from hardware.link import RobotLink
from hardware.messages import ActionChunk, Command
from hardware.record import EpisodeRecorder
from hardware.spec import LifeState, RobotSpec
from robopolicy.errors import DataError
from robopolicy.spec import ActionSpec, ObservationSpec, Spec
from tests.hardware.fake_arm import HOME, FakeArm
from tests.hardware.wire import free_network

SAFE = (LifeState.HOLD, LifeState.DAMPED, LifeState.FAULT)
TIMEOUT_S = 0.15
# The machine that runs tests may be busy: what is asserted is the timeout, two ticks, and this.
BUSY_NS = 150_000_000


class Driven:
    """An arm that swings because of chunks that a thread of this process sends."""

    def __init__(self, directory: Path) -> None:
        network = free_network()
        self.arm = FakeArm(network, follow=True)
        spec = RobotSpec.load("panda_sim")
        driver = {**spec.driver, "network": {"domain": network.domain}, "poses": {}}
        self.spec = spec.replace(
            driver=driver, arm_ramp_s=0.1, cmd_timeout_s=TIMEOUT_S, obs_timeout_s=TIMEOUT_S
        )
        self.link = RobotLink(self.spec, directory)
        self.link.arm()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._act, daemon=True)
        self._thread.start()
        self.settle()

    def _act(self) -> None:
        while not self._closing.wait(0.05):
            now, dt = time.monotonic_ns(), 20_000_000
            times = now + dt * np.arange(40)
            rows = np.tile(np.append(HOME, 0.06), (40, 1))
            rows[:, 0] += 0.1 * np.sin(2e-9 * times)
            self.link.submit(ActionChunk(t_obs_ns=now, t0_ns=now, dt_ns=dt, actions=rows))

    def settle(self, seconds: float = 0.4) -> None:
        time.sleep(seconds)
        assert self.link.state is LifeState.RUNNING, self.link.ticks()[-1]

    def time_to_safety(self, fault: str, begun_ns: int, allowed_s: float) -> float:
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            for tick in self.link.ticks(300):
                if tick["t_ns"] >= begun_ns and tick["state"] in SAFE:
                    took = tick["t_ns"] - begun_ns
                    print(f"{fault}: safe after {1e-6 * took:.1f} ms")
                    assert took <= 1e9 * allowed_s + 2 * self.spec.period_ns + BUSY_NS
                    return 1e-6 * took
            time.sleep(0.01)
        raise AssertionError(f"never safe; last {self.link.ticks()[-1]}")

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self.link.close()
        self.arm.close()


@pytest.fixture
def driven(tmp_path: Path) -> Iterator[Driven]:
    driven = Driven(tmp_path / "run")
    yield driven
    driven.close()


Record = Callable[[str, object], None]


def test_a_frozen_observation_stream_holds_and_recovers(driven: Driven, record_property: Record) -> None:
    begun = time.monotonic_ns()
    driven.arm.frozen.set()
    record_property("safe_after_ms", driven.time_to_safety("frozen stream", begun, TIMEOUT_S))
    assert "stale_observation" in driven.link.ticks()[-1]["reasons"]
    driven.arm.frozen.clear()
    driven.settle()


def test_a_robot_that_is_gone_holds(driven: Driven, record_property: Record) -> None:
    begun = time.monotonic_ns()
    driven.arm.close()
    record_property("safe_after_ms", driven.time_to_safety("robot gone", begun, TIMEOUT_S))


def test_garbled_messages_are_rejected_and_trip(driven: Driven, record_property: Record) -> None:
    begun = time.monotonic_ns()
    driven.arm.garbled = True
    record_property("safe_after_ms", driven.time_to_safety("garbled", begun, TIMEOUT_S))
    time.sleep(0.3)
    assert "rejected" in driven.link.ticks()[-1]["latched"]
    assert all(np.isfinite(seen.q).all() for seen in driven.link.observe(100))


def test_messages_that_are_late_beyond_the_timeout_hold(driven: Driven, record_property: Record) -> None:
    begun = time.monotonic_ns()
    driven.arm.late_s = 2 * TIMEOUT_S
    record_property("safe_after_ms", driven.time_to_safety("delayed", begun, TIMEOUT_S))


@pytest.mark.parametrize("fault", ["half lost", "doubled", "20 ms late"])
def test_what_networks_do_every_day_stops_nothing(driven: Driven, fault: str) -> None:
    driven.arm.lost = 0.5 if fault == "half lost" else 0.0
    driven.arm.late_s = 0.02 if fault == "20 ms late" else 0.0
    driven.arm.doubled = fault == "doubled"
    time.sleep(0.2)
    before = driven.link.observe()[-1].q[0]
    driven.settle(0.5)
    assert driven.link.observe()[-1].q[0] != before


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0])
def test_a_jump_of_the_robots_clock_ends_in_motion_or_safety(driven: Driven, jump_s: float) -> None:
    driven.arm.skew_ns = round(1e9 * jump_s)
    time.sleep(1.0)
    tick = driven.link.ticks()[-1]
    assert tick["state"] in (LifeState.RUNNING, *SAFE)
    assert tick["obs_age_ns"] < 1e9 * TIMEOUT_S + BUSY_NS


def test_a_control_process_that_is_stopped_starts_over(driven: Driven, record_property: Record) -> None:
    os.kill(driven.link.pid, signal.SIGSTOP)
    time.sleep(3 * TIMEOUT_S)
    begun = time.monotonic_ns()
    os.kill(driven.link.pid, signal.SIGCONT)
    record_property("safe_after_ms", driven.time_to_safety("control process stopped", begun, 0.0))
    driven.settle()


def test_a_full_disk_while_recording_stops_the_robot(
    driven: Driven, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    """Recording is the policy's process' business: it fails, closes the link, and that stops the robot."""
    action = ActionSpec(names=("x",), low=(-1.0,), high=(1.0,))
    spec = Spec(observations={"x": ObservationSpec(shape=(1,))}, action=action, control_hz=20.0)
    recorder = EpisodeRecorder(tmp_path / "robot.zarr", spec, driven.spec)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("robopolicy.data.store.put", full)
    tick, measured = driven.link.ticks()[-1], driven.link.observe()[-1]
    sent = Command(t_ns=int(tick["t_ns"]), valid_until_ns=0, q=tick["q"], reasons=tick["reasons"])
    recorder.step({"x": np.zeros(1, np.float32)}, np.zeros(1), sent, measured)
    begun = time.monotonic_ns()
    with pytest.raises(DataError, match="No space left"), driven.link:
        recorder.commit(seed=0, success=True)
    record_property("safe_after_ms", driven.time_to_safety("disk full", begun, 0.0))
    assert len(recorder) == 1
