"""Universal Robots arms through `ur_rtde`: `servoJ` out, joint states in.

Arming uploads the client's program to the robot. The robot itself watches that commands keep coming and stops
its program when they do not. A gripper on the tool flange needs a driver of its own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardware.extras import require
from hardware.messages import Command, Observation
from hardware.robot import Robot, RobotError
from hardware.spec import RobotSpec
from hardware.transport.clock import SourceClock
from robopolicy.errors import ConfigError
from robopolicy.registry import register

__all__ = ["Ur", "UrConfig"]

_POLL_S = 0.0005
_JOINTS = 6


@dataclass(frozen=True, kw_only=True)
class UrConfig:
    """How the arm is reached and follows."""

    host: str = "192.168.0.2"
    rtde_hz: float = 500.0
    """500 for e-Series, 125 for CB3."""
    lookahead_s: float = 0.05
    """Smooths targets, and delays them by about as much (0.03 to 0.2)."""
    gain: float = 300.0
    """Stiffness of following (100 to 2000)."""
    watchdog_hz: float = 10.0
    """The robot stops when commands come more rarely than this."""

    def __post_init__(self) -> None:
        if not 0.03 <= self.lookahead_s <= 0.2:
            raise ConfigError(f"lookahead_s is between 0.03 and 0.2 s, got {self.lookahead_s}.")
        if not 100 <= self.gain <= 2000:
            raise ConfigError(f"gain is between 100 and 2000, got {self.gain}.")
        if not (self.rtde_hz > 0 and self.watchdog_hz > 0):
            raise ConfigError(f"rtde_hz and watchdog_hz must be positive, got {self}.")


@register("driver", "ur")
class Ur(Robot):
    """One arm of six joints, in the order base, shoulder, elbow, wrist 1, 2, 3."""

    def __init__(self, config: UrConfig, *, spec: RobotSpec, **context: Any) -> None:
        super().__init__(spec, **context)
        self.config = config
        if spec.size != _JOINTS or spec.interface != "position" or spec.gripper is not None:
            raise ConfigError(f"robot {spec.name}: a UR has six joints, interface=position and no gripper.")
        self._receiver: Any = None
        self._control: Any = None

    def _open(self, timeout_s: float) -> None:
        module = require("rtde_receive", extra="ur", purpose=f"Robot {self.spec.name}")
        try:
            self._receiver = module.RTDEReceiveInterface(self.config.host, self.config.rtde_hz)
        except RuntimeError as error:
            raise RobotError(f"{self.spec.name} does not answer at {self.config.host}: {error}") from error
        self._seq, self._stamp = 0, 0
        self._clock_of_robot = SourceClock()

    def _receive(self, timeout_s: float) -> Observation | None:
        receiver, deadline = self._receiver, time.monotonic() + timeout_s
        while (stamp := int(1e9 * receiver.getTimestamp())) == self._stamp:
            if time.monotonic() >= deadline:
                return None
            time.sleep(_POLL_S)
        received = self._clock()
        if stamp < self._stamp:
            self._clock_of_robot = SourceClock()  # the robot was restarted
        self._stamp = stamp
        t_ns = self._clock_of_robot.update(stamp, received)
        q, dq, tau = (
            np.array(values)
            for values in (receiver.getActualQ(), receiver.getActualQd(), receiver.getTargetMoment())
        )
        if not len(q) == len(dq) == len(tau) == _JOINTS:
            self._reject("shape")
            return None
        self._seq += 1
        return Observation(seq=self._seq, t_ns=t_ns, t_src_ns=t_ns, q=q, dq=dq, tau=tau)

    def _enable(self) -> None:
        if self._control is not None:
            return
        module = require("rtde_control", extra="ur", purpose=f"Robot {self.spec.name}")
        try:
            self._control = module.RTDEControlInterface(self.config.host, self.config.rtde_hz)
        except RuntimeError as error:
            raise RobotError(f"{self.spec.name} cannot be controlled: {error}") from error
        self._control.setWatchdog(self.config.watchdog_hz)

    def _send(self, command: Command) -> None:
        assert command.q is not None
        period = 1.0 / self.spec.control_hz
        # Speed and acceleration are not used by the robot's servoJ.
        self._control.servoJ(command.q.tolist(), 0.0, 0.0, period, self.config.lookahead_s, self.config.gain)

    def _close(self) -> None:
        if self._control is not None:
            self._control.servoStop()
            self._control.stopScript()
            self._control.disconnect()
            self._control = None
        if self._receiver is not None:
            self._receiver.disconnect()
            self._receiver = None
