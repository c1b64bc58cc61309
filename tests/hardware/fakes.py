"""Small robots for tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from hardware.guard import Guard
from hardware.messages import Command, Observation
from hardware.spec import GuardConfig, JointSpec, RobotSpec


def small_spec(**changes: Any) -> RobotSpec:
    """Two joints at 100 Hz without a model, driven by the kinematic robot."""
    joints = tuple(
        JointSpec(name=name, lower=-2.0, upper=2.0, vel=2.0, acc=10.0, effort=10.0, kp=20.0, kd=1.0)
        for name in ("shoulder", "elbow")
    )
    values: dict[str, Any] = {
        "name": "small",
        "driver": {"name": "kinematic"},
        "joints": joints,
        "control_hz": 100.0,
        "real": False,
        "arm_ramp_s": 0.05,
        "policy_timeout_s": 0.2,
        "guard": GuardConfig(start_ramp_s=0.0),
    }
    return RobotSpec(**{**values, **changes})


class FakeClock:
    """Time that passes only when someone sleeps."""

    def __init__(self) -> None:
        self.now = 1_000_000_000

    def __call__(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += round(1e9 * seconds)


class Driven:
    """A guard whose robot does exactly what is sent."""

    def __init__(self, spec: RobotSpec, q: np.ndarray | None = None) -> None:
        self.spec, self.guard, self.now = spec, Guard(spec), 1_000_000_000
        self.q = spec.array("home") if q is None else np.array(q)
        self.dq = np.zeros(spec.size)
        self.guard.begin(self.observation(), self.now)

    def observation(self) -> Observation:
        return Observation(
            seq=self.now, t_ns=self.now, q=self.q, dq=self.dq, tau=np.zeros(self.spec.size), gripper=0.0
        )

    def command(self, q: Any = None, **changes: Any) -> Command:
        values: dict[str, Any] = {"t_ns": self.now, "valid_until_ns": self.now + 10**9, "q": q}
        return Command(**{**values, **changes})

    def send(self, q: Any = None, *, make: Any = None, **changes: Any) -> Command:
        self.now += self.spec.period_ns
        command = self.command(q, **changes) if make is None else make(self)
        sent = self.guard.filter(command, self.observation(), self.now)
        assert sent.q is not None
        self.dq = (sent.q - self.q) * self.spec.control_hz
        self.q = sent.q
        return sent
