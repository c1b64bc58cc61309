"""How regular the traffic between a G1 and its controller is, seen from outside.

    python -m hardware.sim.timing --domain 7 --seconds 60           # of whatever runs on that domain
    python -m hardware.sim.timing --domain 7 --seconds 60 --drive   # starts a simulated G1 and holds its pose

Times are those at which messages were sent, which DDS carries with them; sender and receiver share a clock
when they are on one machine.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import threading
import time
from typing import Any

import numpy as np

from hardware.messages import Command
from hardware.robot import make_robot
from hardware.sim.process import READY, Simulated
from hardware.spec import RobotSpec
from hardware.transport.dds import Participant, Quality
from hardware.transport.idl_unitree import LowCmd, LowState
from hardware.transport.network import Network
from robopolicy.errors import DataError

PERIOD_NS = 2_000_000


def summarise(states_ns: np.ndarray, commands_ns: np.ndarray, period_ns: int = PERIOD_NS) -> dict[str, Any]:
    """Rates (Hz), jitter and latency (ms) from sending times `[S]`, `[C]`, both increasing.

    Jitter is the deviation of an interval from the period. A deadline is missed by a state that no command
    follows within a period.

    Raises:
        DataError: fewer than two states or commands.
    """
    if len(states_ns) < 2 or len(commands_ns) < 2:
        raise DataError(f"Saw {len(states_ns)} states and {len(commands_ns)} commands: not enough to time.")
    after = np.searchsorted(commands_ns, states_ns)
    answered = after < len(commands_ns)
    latency = commands_ns[after[answered]] - states_ns[answered]
    missed = latency > period_ns
    seconds = 1e-9 * float(states_ns[-1] - states_ns[0])
    return {
        "seconds": seconds,
        "states": len(states_ns),
        "commands": len(commands_ns),
        "state_hz": (len(states_ns) - 1) / seconds,
        "command_hz": 1e9 * (len(commands_ns) - 1) / float(commands_ns[-1] - commands_ns[0]),
        "state_jitter_ms": _percentiles(np.abs(np.diff(states_ns) - period_ns)),
        "command_jitter_ms": _percentiles(np.abs(np.diff(commands_ns) - period_ns)),
        "state_to_command_ms": _percentiles(latency),
        "missed_deadlines": int(missed.sum()),
        "missed_share": float(missed.mean()),
    }


def observe(network: Network, seconds: float) -> dict[str, Any]:
    """Watch rt/lowstate and rt/lowcmd for a while; sends nothing."""
    quality = Quality(reliable=False, depth=5000)
    times: tuple[list[int], list[int]] = ([], [])
    with Participant(network) as participant:
        readers: Any = (
            participant.reader("rt/lowstate", LowState, quality),
            participant.reader("rt/lowcmd", LowCmd, quality),
        )
        for reader in readers:
            reader.wait_matched(10.0)
            reader.wait(10.0)
            reader.take()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(0.05)
            for reader, kept in zip(readers, times, strict=True):
                kept.extend(message.sample_info.source_timestamp for message in reader.take())
        rejected = sum(reader.rejected for reader in readers)
    states, commands = (np.array(sorted(kept), np.int64) for kept in times)
    first = states[0] if len(states) else 0
    return {**summarise(states, commands[commands >= first]), "rejected": rejected}


def drive(network: Network, seconds: float) -> dict[str, Any]:
    """Hold the pose of a simulated G1 at 500 Hz through the guard, watched by a process of its own."""
    spec = RobotSpec.load("g1_sim")
    spec = spec.replace(driver={**spec.driver, "network": {"domain": network.domain}}, arm_ramp_s=0.2)
    domain = f"--domain={network.domain}"
    with Simulated("hardware.sim.g1", domain), make_robot(spec) as robot:
        robot.arm()
        hold = robot.read().q
        with Simulated("hardware.sim.timing", domain, f"--seconds={seconds}") as observer:
            watcher = threading.Thread(target=observer.process.wait, daemon=True)
            watcher.start()
            gc.collect()
            gc.freeze()
            gc.disable()
            try:
                while watcher.is_alive():
                    robot.read(0.1)
                    now = time.monotonic_ns()
                    robot.write(Command(t_ns=now, valid_until_ns=now + 10**8, q=hold))
            finally:
                gc.enable()
            result: dict[str, Any] = json.loads(observer.rest())
        return {**result, "guard": dict(robot.counters), "latched": robot.latched}


def _percentiles(ns: np.ndarray) -> dict[str, float]:
    values = 1e-6 * np.percentile(ns, (50, 99, 99.9, 100))
    return {name: round(float(v), 4) for name, v in zip(("p50", "p99", "p99.9", "max"), values, strict=True)}


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Timing of the traffic between a G1 and its controller.")
    parser.add_argument("--domain", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--drive", action="store_true")
    arguments = parser.parse_args()
    network = Network(domain=arguments.domain)
    if arguments.drive:
        result = drive(network, arguments.seconds)
    else:
        print(READY, flush=True)
        result = observe(network, arguments.seconds)
    json.dump(result, sys.stdout)
    print(flush=True)


if __name__ == "__main__":
    main()
