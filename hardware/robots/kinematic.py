"""A robot without a wire: it follows what is sent, exactly or with a lag. For dry runs and tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hardware.messages import Command, Observation
from hardware.robot import Robot
from hardware.spec import RobotSpec, StopMode
from robopolicy.errors import ConfigError
from robopolicy.registry import register

__all__ = ["KinematicConfig", "KinematicRobot"]


@dataclass(frozen=True, kw_only=True)
class KinematicConfig:
    """How the pretended robot follows."""

    lag_s: float = 0.0
    """Time constant with which measured positions follow the sent ones."""

    def __post_init__(self) -> None:
        if not 0 <= self.lag_s < 1:
            raise ConfigError(f"kinematic.lag_s must be in [0, 1), got {self.lag_s}.")


@register("driver", "kinematic")
class KinematicRobot(Robot):
    """Starts at home, at rest. Limp (gains 0) it stays where it is."""

    def __init__(self, config: KinematicConfig, *, spec: RobotSpec, **context: Any) -> None:
        super().__init__(spec, **context)
        self.config = config
        self._q, self._target = spec.array("home"), spec.array("home")
        self._dq = np.zeros(spec.size)
        self._gripper = spec.gripper.upper if spec.gripper else None
        self._seq = 0
        self._seen = -1
        self._share = 1.0 - np.exp(-1.0 / (spec.control_hz * config.lag_s)) if config.lag_s else 1.0

    def _open(self, timeout_s: float) -> None:
        self._seen = -1

    def _receive(self, timeout_s: float) -> Observation | None:
        now = self._clock()
        if self._seen >= 0 and now - self._seen < self.spec.period_ns // 2:
            return None
        self._seen = now
        moved = self._share * (self._target - self._q)
        self._q, self._dq = self._q + moved, moved * self.spec.control_hz
        self._seq += 1
        tau = np.zeros(self.spec.size)
        return Observation(
            seq=self._seq, t_ns=now, q=self._q.copy(), dq=self._dq.copy(), tau=tau, gripper=self._gripper
        )

    def _send(self, command: Command) -> None:
        assert command.q is not None
        limp = command.kp is not None and not command.kp.any()
        self._target = self._q if limp else command.q
        if command.gripper is not None:
            self._gripper = command.gripper

    def _stopped(self, how: StopMode) -> None:
        if how == "disable":
            self._target = self._q

    def _close(self) -> None:
        self._target = self._q
