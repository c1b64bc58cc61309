"""How long a robot's guard takes for ordinary commands."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from hardware.guard import Guard
from hardware.messages import Command, Observation
from hardware.spec import RobotSpec

__all__ = ["speed"]

_SWING = 0.1  # rad


def speed(spec: RobotSpec, *, commands: int, seed: int = 0) -> dict[str, Any]:
    """How long the guard takes for commands of smooth motions about the home pose, with all its checks.

    Processor time, so that other processes do not count; wall time is beside it.
    """
    rng, guard, dt = np.random.default_rng(seed), Guard(spec), 1.0 / spec.control_hz
    rate, phase = rng.uniform(0.5, 2.0, spec.size), rng.uniform(0.0, 2 * np.pi, spec.size)
    home, begun = spec.array("home"), 1_000_000_000
    q, dq = home.copy(), np.zeros(spec.size)
    seen = Observation(seq=0, t_ns=begun, q=q, dq=dq, tau=np.zeros(spec.size))
    guard.begin(seen, begun)
    guard.start_ramp(begun - round(1e9 * spec.guard.start_ramp_s))
    processor, wall = np.empty(commands), np.empty(commands)
    for index in range(commands):
        now = begun + (index + 1) * spec.period_ns
        t = (index + 1) * dt
        target = home + _SWING * (np.sin(rate * t + phase) - np.sin(phase))
        seen = Observation(seq=index + 1, t_ns=now, q=q, dq=dq, tau=seen.tau)
        command = Command(t_ns=now, valid_until_ns=now + spec.period_ns, q=target)
        start = time.perf_counter_ns(), time.thread_time_ns()
        sent = guard.filter(command, seen, now)
        processor[index] = time.thread_time_ns() - start[1]
        wall[index] = time.perf_counter_ns() - start[0]
        assert sent.q is not None
        assert sent.dq is not None
        q, dq = sent.q, sent.dq
    return {
        "robot": spec.name,
        "joints": spec.size,
        "commands": commands,
        "microseconds": {f"p{p}": round(float(np.percentile(processor, p)) / 1e3, 1) for p in (50, 90, 99)},
        "wall_microseconds": {f"p{p}": round(float(np.percentile(wall, p)) / 1e3, 1) for p in (50, 90, 99)},
        "counters": dict(guard.counters),
        "machine_load": os.getloadavg()[0],
        "cpus": os.cpu_count(),
    }
