"""Small robots for tests."""

from __future__ import annotations

from typing import Any

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
