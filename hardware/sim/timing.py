"""How regular the traffic between a G1 and its controller is, seen from outside.

    python -m hardware.sim.timing --domain 7 --seconds 60           # of whatever runs on that domain
    python -m hardware.sim.timing --domain 7 --seconds 60 --drive   # starts and drives a simulated G1
    python -m hardware.sim.timing --seconds 60 --drive --checkpoint ... # and a policy works beside it

Times are those at which messages were sent, which DDS carries with them; sender and receiver share a clock
when they are on one machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hardware.link import RobotLink, default_directory
from hardware.messages import ActionChunk
from hardware.process import READY, Simulated
from hardware.spec import RobotSpec
from hardware.transport.dds import Participant, Quality
from hardware.transport.idl_unitree import LowCmd, LowState
from hardware.transport.network import Network
from robopolicy.errors import DataError
from robopolicy.evaluation.machine import stamp

__all__ = ["PERIOD_NS", "drive", "main", "observe", "summarise"]

PERIOD_NS = 2_000_000
_CHUNK_S = 0.2


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


def drive(network: Network, seconds: float, checkpoint: str = "") -> dict[str, Any]:
    """A simulated G1, its control process and chunks of slow motions from here, watched by another process.

    A checkpoint's policy samples before every chunk, for its load on the machine; what it says is not sent.
    The guard's counters and the control process' own count of missed ticks are beside what was seen.
    """
    spec = RobotSpec.load("g1_sim")
    spec = spec.replace(driver={**spec.driver, "network": {"domain": network.domain}})
    domain = f"--domain={network.domain}"
    sample = _sampler(checkpoint) if checkpoint else float
    with (
        Simulated("hardware.sim.g1", domain),
        tempfile.TemporaryDirectory(prefix="robopolicy_", dir=default_directory()) as name,
        RobotLink(spec, Path(name)) as link,
    ):
        hold = link.observe()[-1].q
        link.arm()
        load = os.getloadavg()[0]
        begun = link.ticks()[-1]
        over = threading.Event()
        policy = threading.Thread(target=_act, args=(link, hold, over, sample))
        policy.start()
        try:
            with Simulated("hardware.sim.timing", domain, f"--seconds={seconds}") as observer:
                result: dict[str, Any] = json.loads(observer.rest(seconds + 30.0))
        finally:
            over.set()
            policy.join()
        ended = link.ticks()[-1]
    return {
        **result,
        "missed_ticks": ended["missed"] - begun["missed"],
        "guard": ended["counters"],
        "latched": ended["latched"],
        "machine_load": [load, os.getloadavg()[0]],
    }


def _sampler(checkpoint: str) -> Callable[[], object]:
    from robopolicy.learning.checkpoint import load
    from robopolicy.policies.policy import blank_observation

    policy = load(checkpoint)
    return lambda: policy.sample(blank_observation(policy))


def _act(link: RobotLink, hold: np.ndarray, over: threading.Event, sample: Callable[[], object]) -> None:
    while not over.wait(_CHUNK_S):
        sample()
        link.submit(_swing(link.spec, hold))


def _swing(spec: RobotSpec, hold: np.ndarray) -> ActionChunk:
    """Both elbows, 0.1 rad to and fro."""
    now, dt = time.monotonic_ns(), round(1e9 * _CHUNK_S / 4)
    rows = np.tile(hold, (16, 1))
    elbows = [spec.index(f"{side}_elbow_joint") for side in ("left", "right")]
    rows[:, elbows] += 0.1 * np.sin(1e-9 * (now + dt * np.arange(16)))[:, None]
    return ActionChunk(t_obs_ns=now, t0_ns=now, dt_ns=dt, actions=rows)


def _percentiles(ns: np.ndarray) -> dict[str, float]:
    values = 1e-6 * np.percentile(ns, (50, 99, 99.9, 100))
    return {name: round(float(v), 4) for name, v in zip(("p50", "p99", "p99.9", "max"), values, strict=True)}


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Timing of the traffic between a G1 and its controller.")
    parser.add_argument("--domain", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--drive", action="store_true")
    parser.add_argument("--checkpoint", default="", help="policy that samples five times a second")
    arguments = parser.parse_args()
    network = Network(domain=arguments.domain)
    if arguments.drive:
        result = drive(network, arguments.seconds, arguments.checkpoint)
    else:
        print(READY, flush=True)
        result = observe(network, arguments.seconds)
    json.dump({**stamp(), **result}, sys.stdout)
    print(flush=True)


if __name__ == "__main__":
    main()
