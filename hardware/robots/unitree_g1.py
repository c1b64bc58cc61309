"""Unitree's G1 over DDS, without the vendor's SDK.

| mode | sends | the robot's own controller |
|---|---|---|
| low | targets and gains of all motors (rt/lowcmd) | released when arming |
| arm | the same for waist and arms (rt/arm_sdk), faded in by arming and out by closing | walks or stands |
| loco | velocities of the base | walks |

With a `base` in its spec, mode `arm` sends velocities too. A standing robot is never left without damping: a
damped stop sends kp 0, kd > 0, torque 0 for at least a second, and goes on for as long as `write` is called.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hardware.messages import Command, Measured, Observation
from hardware.robot import Robot, RobotError
from hardware.robots.streams import Streams
from hardware.spec import RobotSpec, StopMode
from hardware.transport.clock import SourceClock
from hardware.transport.network import Network
from hardware.transport.topics import TopicTimeout
from robopolicy.errors import ConfigError, unknown
from robopolicy.registry import register

if TYPE_CHECKING:
    from hardware.transport.dds import Participant

__all__ = ["MOTORS", "UPPER_BODY", "WEIGHT_SLOT", "UnitreeG1", "UnitreeG1Config"]

_LEG = ("hip_pitch", "hip_roll", "hip_yaw", "knee", "ankle_pitch", "ankle_roll")
_ARM = ("shoulder_pitch", "shoulder_roll", "shoulder_yaw", "elbow", "wrist_roll", "wrist_pitch", "wrist_yaw")
MOTORS: tuple[str, ...] = tuple(
    f"{part}_joint"
    for part in (
        *(f"{side}_{joint}" for side in ("left", "right") for joint in _LEG),
        *("waist_yaw", "waist_roll", "waist_pitch"),
        *(f"{side}_{joint}" for side in ("left", "right") for joint in _ARM),
    )
)
"""Names of the motors 0 to 28."""
UPPER_BODY = MOTORS[12:]
WEIGHT_SLOT = 29
"""Its `q` in rt/arm_sdk is the share of the overlay, 0 to 1."""
_ENABLED = 1
_WALK_PERIOD_S = 0.05
_HALF = 2**31


@dataclass(frozen=True, kw_only=True)
class UnitreeG1Config:
    """How the robot is driven."""

    network: Network = field(default_factory=Network)
    mode: Literal["low", "arm", "loco"] = "low"
    walk_s: float = 0.3
    """A velocity ends by itself after this; it is renewed 20 times a second."""
    fade_s: float = 2.0
    """Closing in mode `arm` fades the overlay out over this time."""
    poses: Mapping[str, str] = field(default_factory=dict)
    """Name to topic of geometry_msgs/PoseStamped, stamped by the robot's clock: ``{box: /box_pose}``."""

    def __post_init__(self) -> None:
        if not 2 * _WALK_PERIOD_S <= self.walk_s <= 1.0:
            raise ConfigError(f"walk_s is between {2 * _WALK_PERIOD_S:g} and 1 s, got {self.walk_s}.")
        if not 0 < self.fade_s <= 10:
            raise ConfigError(f"fade_s is between 0 and 10 s, got {self.fade_s}.")
        object.__setattr__(self, "poses", dict(self.poses))


@register("driver", "unitree_g1")
class UnitreeG1(Robot):
    """Motor targets out, motor states in, checksums on both."""

    def __init__(self, config: UnitreeG1Config, *, spec: RobotSpec, **context: Any) -> None:
        super().__init__(spec, **context)
        self.config = config
        allowed = UPPER_BODY if config.mode == "arm" else MOTORS
        for name in spec.names:
            if name not in allowed:
                raise ConfigError(
                    f"robot {spec.name}, mode {config.mode}: " + unknown("joint", name, allowed)
                )
        if config.mode == "low" and spec.size != len(MOTORS):
            missing = sorted(set(MOTORS) - set(spec.names))
            raise ConfigError(f"robot {spec.name}: mode low commands every motor; missing: {missing}.")
        if config.mode == "loco" and spec.base is None:
            raise ConfigError(f"robot {spec.name}: mode loco needs a base.")
        if config.mode != "loco" and spec.interface != "impedance":
            raise ConfigError(f"robot {spec.name}: a G1's joints have interface=impedance.")
        self._slots = np.array([MOTORS.index(name) for name in spec.names])
        self._walks = spec.base is not None and config.mode != "low"
        self._participant: Participant | None = None

    def _open(self, timeout_s: float) -> None:
        from hardware.robots.unitree_rpc import Loco, MotionSwitcher
        from hardware.transport.dds import SENSOR, STATE, Participant
        from hardware.transport.idl_unitree import LowCmd, LowState

        mode = self.config.mode
        participant = Participant(self.config.network)
        self._participant = participant
        self._states = participant.reader("rt/lowstate", LowState, SENSOR)
        self._command = LowCmd()
        self._commands = None
        if mode != "loco":
            topic = "rt/lowcmd" if mode == "low" else "rt/arm_sdk"
            self._commands = participant.writer(topic, LowCmd, STATE)
        self._streams = Streams(participant, dict(self.config.poses), {})
        self._switcher = MotionSwitcher(participant) if mode == "low" else None
        # Stopping has a client of its own, so that no call under way can block it.
        self._loco = Loco(participant) if self._walks else None
        self._clock_of_robot = SourceClock()
        self._seq, self._tick_count = 0, 0
        self._walked_ns, self._walking = 0, False
        self._sent_any = False
        try:
            self._states.wait_matched(timeout_s)
            if self._commands is not None:
                self._commands.wait_matched(timeout_s)
        except TopicTimeout as error:
            self._leave()
            raise RobotError(f"{self.spec.name} does not answer: {error}") from error

    def _receive(self, timeout_s: float) -> Observation | None:
        return self._states.newest(timeout_s, self._observation, lambda: self._reject("crc"))

    def _observation(self, message: Any) -> Observation | None:
        record, received = message.record, self._clock()
        tick = int(record["tick"])
        ahead = (tick - self._tick_count) % (2 * _HALF)
        if ahead == 0:
            return None  # a copy, or a robot that repeats itself: nothing new
        if ahead >= _HALF:
            self._reject("order")
            return None
        motors = message.motors[self._slots]
        q, dq, tau = (motors[name].astype(np.float64) for name in ("q", "dq", "tau_est"))
        if not (np.isfinite(q).all() and np.isfinite(dq).all() and np.isfinite(tau).all()):
            self._reject("finite")
            return None
        self._tick_count = tick
        self._command.record["mode_machine"] = record["mode_machine"]
        self._command.record["mode_pr"] = record["mode_pr"]
        self._seq += 1
        # A message may have waited in the queue, so taking it is no sign that it is fresh.
        t_ns = self._clock_of_robot.update(message.sample_info.source_timestamp, received)
        imu = record["imu_state"]
        told = {name: imu[name] for name in ("quaternion", "gyroscope", "accelerometer")}
        told["motor_temperature"] = motors["temperature"].max(1)
        streams = {name: Measured(t_ns, value.astype(np.float64)) for name, value in told.items()}
        streams |= self._streams.read(self._clock_of_robot.convert)
        return Observation(seq=self._seq, t_ns=t_ns, t_src_ns=t_ns, q=q, dq=dq, tau=tau, streams=streams)

    def _enable(self) -> None:
        if self._switcher is not None:
            self._switcher.release()

    def _send(self, command: Command) -> None:
        if self._commands is not None:
            motors = self._command.motors
            rows = np.zeros(self.spec.size, motors.dtype)
            rows["mode"] = _ENABLED
            for name, values in (
                ("q", command.q),
                ("dq", command.dq),
                ("tau", command.tau_ff),
                ("kp", command.kp),
                ("kd", command.kd),
            ):
                rows[name] = values
            motors[self._slots] = rows
            if self.config.mode == "arm":
                motors["q"][WEIGHT_SLOT] = command.weight
            self._commands.write(self._command)
            self._sent_any = True
        if self._loco is not None and command.base is not None:
            self._walk(command.base)

    def _walk(self, velocity: np.ndarray) -> None:
        assert self._loco is not None
        now, moving = self._clock(), bool(np.any(velocity))
        if now - self._walked_ns >= 1e9 * _WALK_PERIOD_S or (self._walking and not moving):
            self._loco.walk(velocity, self.config.walk_s)
            self._walked_ns, self._walking = now, moving

    def _stopped(self, how: StopMode) -> None:
        if self._loco is not None:
            self._loco.walk(np.zeros(3), self.config.walk_s)
            if how != "hold":
                self._loco.damp()

    def _close(self) -> None:
        if self._participant is None:
            return
        if self.config.mode == "arm" and self._sent_any and self._commands is not None:
            weight = self._command.motors["q"]
            begun, first = time.monotonic(), float(weight[WEIGHT_SLOT])
            while (share := 1.0 - (time.monotonic() - begun) / self.config.fade_s) > 0.0:
                weight[WEIGHT_SLOT] = first * share
                self._commands.write(self._command)
                self._sleep(1.0 / self.spec.control_hz)
            weight[WEIGHT_SLOT] = 0.0
            self._commands.write(self._command)
        self._leave()

    def _leave(self) -> None:
        if self._participant is not None:
            self._participant.close()
            self._participant = None
