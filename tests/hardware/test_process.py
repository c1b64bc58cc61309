"""Simulated robots start, say why they do not, and never outlive whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest

pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")

from hardware.process import Simulated, settings
from robopolicy.errors import ConfigError, RobopolicyError
from tests.hardware.wire import free_network


@dataclass(frozen=True, kw_only=True)
class Options:
    rate: float = 2.0
    name: str = "x"
    wild: bool = False


def test_every_field_is_an_option() -> None:
    options, network = settings(Options, "test", ["--rate=5", "--wild", "--domain", "9"])
    assert options == Options(rate=5.0, wild=True)
    assert network.domain == 9
    assert settings(Options, "test", ["--no-wild"])[0] == Options()
    with pytest.raises(ConfigError, match="domain is 0"):
        settings(Options, "test", ["--domain", "999"])


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"


def gone(pid: int, timeout_s: float = 5.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


@pytest.mark.sim
def test_it_ends_with_the_block_and_when_it_is_stopped_in_its_tracks() -> None:
    with Simulated("hardware.sim.g1", f"--domain={free_network().domain}") as g1:
        assert alive(g1.process.pid)
    assert gone(g1.process.pid)
    frozen = Simulated("hardware.sim.g1", f"--domain={free_network().domain}")
    os.kill(frozen.process.pid, signal.SIGSTOP)
    frozen.close(patience_s=0.1)
    assert gone(frozen.process.pid)


@pytest.mark.sim
def test_it_ends_when_its_parent_is_killed() -> None:
    code = (
        "from hardware.process import Simulated; import time; "
        f"s = Simulated('hardware.sim.g1', '--domain={free_network().domain}'); "
        "print(s.process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(child)


def test_why_it_did_not_start_is_said() -> None:
    with pytest.raises(RobopolicyError, match=r"(?s)did not start:.*domain is 0\.\.232, got 400"):
        Simulated("hardware.sim.g1", "--domain=400")
