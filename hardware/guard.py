"""The last stage before the wire: what passes is finite, fresh, within every limit and free of collisions.

1. numbers that are not finite or have the wrong shape latch;
2. stale observations and commands lead to the robot's stop mode;
3. a latch is left by an operator alone;
4. the sent position moves as `Motion` allows: velocity, position limits and acceleration bound the step;
5. end-effector speed, workspace and collisions are looked at where the step leads (`Lookahead`), and where
   braking from it would end; what is refused brakes instead, along a line that was looked at before;
6. torques (impedance robots) are bounded on the measured state.

This is software: not safety-rated.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from hardware.messages import Command, Observation
from hardware.motion import Motion
from hardware.spec import CHECKS, CheckMode, RobotSpec, StopMode
from hardware.torques import Gains, bounded, damped, within

__all__ = ["Guard"]

_STRICTNESS = ("hold", "damp", "disable")


class Guard:
    """Filters commands for one robot. Pure: no clock, no wire; the caller gives the time."""

    def __init__(self, spec: RobotSpec) -> None:
        self.spec = spec
        config = spec.guard
        self._modes: dict[str, CheckMode] = {name: getattr(config, name) for name in CHECKS}
        n, self._dt = spec.size, 1.0 / spec.control_hz
        self._n, self._shape = n, (n,)
        self._obs_timeout_ns, self._cmd_timeout_ns = spec.obs_timeout_ns, spec.cmd_timeout_ns
        self._effort, self._kp, self._kd = spec.array("effort"), spec.array("kp"), spec.array("kd")
        self._too_fast = config.measured_velocity_factor * spec.array("vel")
        self._impedance = spec.interface == "impedance"
        self._motion = Motion(spec, self._flag, lambda: bool(self.latched))
        base = spec.base
        self._base_vel = np.array(base.vel) if base else None
        self._base_dv = np.array(base.acc) * self._dt if base else np.zeros(3)
        self.counters: dict[str, int] = {}
        self.latched = ""
        self.asked = False
        """Whether the latch was asked for, and not tripped."""
        self.stop_mode: StopMode = spec.stop
        self.holding = False
        """Whether the last tick braked or held instead of following."""
        self._rejected: deque[int] = deque(maxlen=config.rejected_per_window)
        self._reasons: list[str] = []
        self._measured_q, self._measured_dq = np.zeros(n), np.zeros(n)
        self._gripper: float | None = None
        self._base = np.zeros(3)
        self._weight = 0.0
        self._last_tick: int | None = None
        self._begun: int | None = None
        self._last_command = -(2**62)
        self._lost = False

    def begin(self, observation: Observation, now_ns: int) -> None:
        """Take the measured pose as the one that was sent last, at rest."""
        self._motion.place(observation.q)
        self._gripper = observation.gripper
        self._base[:], self._weight = 0.0, 0.0
        self._last_tick, self._begun, self._last_command = None, now_ns, -(2**62)
        self._lost = False
        self.start_ramp(now_ns)

    def start_ramp(self, now_ns: int) -> None:
        """From now the velocity limit grows from a tenth to all of it."""
        self._motion.start_ramp(now_ns)

    @property
    def overshoot(self) -> float:
        """The most that braking would have passed a position limit by, rad, before the position was cut."""
        return self._motion.overshoot

    def trip(self, reason: str, how: StopMode | None = None, *, operator: bool = False) -> None:
        """Latch. The first reason stays; the stop mode only gets stricter. Safe from any thread."""
        how = how or self.spec.stop
        if how == "damp" and not self._impedance:
            how = "hold"
        if not self.latched:
            self.stop_mode, self.asked = how, operator
            self.latched = reason or "tripped"
        elif _STRICTNESS.index(how) > _STRICTNESS.index(self.stop_mode):
            self.stop_mode = how

    def clear(self) -> None:
        """Release the latch. `begin` follows before anything is sent again."""
        self.latched, self.asked, self.stop_mode = "", False, self.spec.stop
        self._rejected.clear()

    def rejected(self, what: str, now_ns: int) -> None:
        """Count a message that was dropped; too many in a window trip."""
        self._count(what)
        self._rejected.append(now_ns)
        config, kept = self.spec.guard, self._rejected
        if len(kept) == kept.maxlen and now_ns - kept[0] <= 1e9 * config.reject_window_s:
            self.trip(
                f"{len(kept)} messages rejected within {config.reject_window_s:g} s, the last for {what}"
            )

    def filter(self, command: Command | None, observation: Observation | None, now_ns: int) -> Command:
        """The command to send instead of `command`: itself where nothing is wrong. Never raises on bad input.

        Raises:
            AttributeError: `command` is no `Command`.
        """
        self._reasons.clear()
        target = gains = None
        seen = self._see(observation, now_ns)
        stalled = self._stalled(now_ns)
        if stalled:
            self._note("stalled")
            if seen:
                self._start_over()
        if seen and self._modes["tracking"] != "off" and not self._limp:
            self._check_tracking(self._measured_q, self._measured_dq)
        if seen and not stalled and not self.latched and command is not None:
            arrays = self._read(command)
            if arrays is not None and self._fresh(command, now_ns):
                target, gains = arrays[0], arrays
        if target is None and not self.latched and (command is None or command.q is None):
            self._note("starved")
        if self.latched:
            target = gains = None
            self._reasons.append("latched")
        early = self._last_tick is not None and now_ns - self._last_tick < 0.5e9 * self._dt
        if early:
            self._note("early")
        else:
            self._last_tick = now_ns
            if self._limp:  # the next position to hold is wherever the robot then is
                self._motion.place(self._measured_q)
            elif target is None:
                self._motion.brake()
            else:
                self._motion.follow(target, None if gains is None else gains[1], now_ns)
            self._advance_rest(command if gains is not None else None)
        self.holding = target is None
        return self._result(gains, now_ns)

    # What is looked at before anything moves.

    def _stalled(self, now_ns: int) -> bool:
        """Nothing was sent for long: the robot has stopped by itself, or sunk, and is not where it was sent.

        Until it is seen again nobody knows where it is.
        """
        last = self._begun if self._last_tick is None else self._last_tick
        silence = 0 if last is None else now_ns - last
        if silence > self._cmd_timeout_ns:
            self._lost = True
            if self.spec.stop != "hold":
                self.trip(f"nothing was sent for {1e-9 * silence:.3f} s")
        return self._lost

    def _start_over(self) -> None:
        """Brake from the measured motion: going on would pull the robot back with full stiffness."""
        self._lost = False
        self._motion.place(self._measured_q, self._measured_dq)

    def _see(self, observation: Observation | None, now_ns: int) -> bool:
        """Take in the measured state; whether it may be acted on."""
        age = math.inf if observation is None else now_ns - observation.t_ns
        if observation is None or abs(age) > self._obs_timeout_ns:
            self._stale("stale_observation", f"no observation for {1e-9 * age:.3f} s")
            return False
        q, dq = observation.q, observation.dq
        if not (
            isinstance(q, np.ndarray)
            and isinstance(dq, np.ndarray)
            and q.shape == dq.shape == self._shape
            and q.dtype.kind == dq.dtype.kind == "f"
            and math.isfinite(q.dot(q))
            and math.isfinite(dq.dot(dq))
        ):
            self._bad("observation")
            return False
        self._measured_q, self._measured_dq = q, dq
        return True

    def _check_tracking(self, q: np.ndarray, dq: np.ndarray) -> None:
        limit = self.spec.guard.tracking_error
        error, speed = np.abs(q - self._motion.q), np.abs(dq)
        share = speed / self._too_fast
        if error.dot(error) <= limit * limit and share.dot(share) <= 1.0:
            return  # all together are not over what one of them may be
        worst = int(error.argmax())
        if error[worst] > limit and self._weight >= 1.0:
            self._flag("tracking", f"{self.spec.names[worst]} is {error[worst]:.2f} rad from what was sent")
        worst = int((speed - self._too_fast).argmax())
        if speed[worst] > self._too_fast[worst]:
            self._flag("tracking", f"{self.spec.names[worst]} was measured at {dq[worst]:.2f} rad/s")

    def _read(self, command: Command) -> tuple[np.ndarray | None, ...] | None:
        """Every array of the command as float64, or None if one is malformed or not finite."""
        arrays = []
        for value in (command.q, command.dq, command.tau_ff, command.kp, command.kd):
            if value is not None:
                value = _floats(value, self._shape)
                if value is None:
                    self._bad("command")
                    return None
            arrays.append(value)
        if command.base is not None and _floats(command.base, (3,)) is None:
            self._bad("command")
            return None
        for number in (command.gripper, command.weight):
            if number is not None and not (
                isinstance(number, (int, float, np.floating)) and math.isfinite(number)
            ):
                self._bad("command")
                return None
        return tuple(arrays)

    def _fresh(self, command: Command, now_ns: int) -> bool:
        if command.t_ns < self._last_command:
            self.rejected("order", now_ns)
            self._reasons.append("order")
            return False
        age = now_ns - command.t_ns
        if abs(age) > self._cmd_timeout_ns or now_ns > command.valid_until_ns:
            late = max(age, now_ns - command.valid_until_ns)
            self._stale("stale_command", f"the command is {1e-9 * late:.3f} s too old")
            return False
        self._last_command = command.t_ns
        return True

    def _stale(self, name: str, message: str) -> None:
        self._note(name)
        if self.spec.guard.freshness == "trip" or self.spec.stop != "hold":
            self.trip(message)

    def _bad(self, what: str) -> None:
        self._note("finite")
        if self.spec.guard.finite == "trip":
            self.trip(f"the {what} is malformed or not finite")

    # What is sent.

    def _advance_rest(self, command: Command | None) -> None:
        """Gripper, base and weight."""
        gripper, spec = self.spec.gripper, self.spec
        if command is not None:
            if gripper is not None and command.gripper is not None:
                wanted = min(max(float(command.gripper), gripper.lower), gripper.upper)
                step = gripper.vel * self._dt
                last = wanted if self._gripper is None else self._gripper
                self._gripper = min(max(wanted, last - step), last + step)
            self._weight = min(
                max(float(command.weight), 0.0), 1.0, self._weight + 1.01 * self._dt / spec.arm_ramp_s
            )
        if self._base_vel is not None:
            asked = np.zeros(3) if command is None or command.base is None else np.asarray(command.base)
            asked = np.maximum(np.minimum(asked, self._base_vel), -self._base_vel)
            if self._limp:
                self._base = np.zeros(3)
            else:
                self._base = np.maximum(
                    np.minimum(asked, self._base + self._base_dv), self._base - self._base_dv
                )

    def _result(self, gains: tuple[np.ndarray | None, ...] | None, now_ns: int) -> Command:
        result = Command(
            t_ns=now_ns,
            valid_until_ns=now_ns + self._cmd_timeout_ns,
            q=self._motion.q.copy(),
            dq=self._motion.v.copy(),
            gripper=self._gripper,
            base=None if self._base_vel is None else self._base.copy(),
            weight=self._weight,
        )
        if self._impedance:
            result.kp, result.kd, result.tau_ff = self._gains(gains)
        result.reasons = tuple(self._reasons)
        return result

    def _gains(self, asked: tuple[np.ndarray | None, ...] | None) -> Gains:
        if self._limp:
            damping = self.spec.damping if self.stop_mode == "damp" else 0.0
            return damped(damping, self._measured_dq, self._effort)
        tau, kp, kd = (None, None, None) if asked is None else asked[2:]
        gains = Gains(
            self._kp.copy() if kp is None else within(0.0, kp, self._kp),
            self._kd.copy() if kd is None else within(0.0, kd, self._kd),
            np.zeros(self._n) if tau is None else tau.copy(),
        )
        if self._modes["torque"] == "off":
            return gains
        less, excessive = bounded(
            gains,
            self._motion.q - self._measured_q,
            self._motion.v - self._measured_dq,
            self._effort,
        )
        if excessive and self._flag("torque", "gains and torques ask for more than the effort limit"):
            return less
        return gains

    # Modes and counters.

    @property
    def _limp(self) -> bool:
        """Whether the robot is not held: what moves it is the world."""
        return bool(self.latched) and self.stop_mode != "hold"

    def _flag(self, name: str, message: str) -> bool:
        """A check found something: count it, and latch where it is set to trip. Whether to act on it."""
        mode = self._modes[name]
        if mode == "off":
            return False
        self._count(name)
        if mode != "warn":
            self._reasons.append(name)
        if mode == "trip":
            self.trip(message)
        return mode != "warn"

    def _note(self, name: str) -> None:
        self._count(name)
        self._reasons.append(name)

    def _count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1


def _floats(value: object, shape: tuple[int, ...]) -> np.ndarray | None:
    """A float64 array of this shape whose numbers are finite; None otherwise."""
    if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype.kind not in "fiu":
        return None
    array = value if value.dtype == np.float64 else value.astype(np.float64)
    return array if math.isfinite(array.dot(array)) else None
