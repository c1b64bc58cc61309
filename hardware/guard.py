"""The last stage before the wire: what passes is finite, fresh, within every limit and free of collisions.

Each tick moves the sent position by at most one period of an allowed velocity:

1. numbers that are not finite or have the wrong shape latch;
2. stale observations and commands lead to the robot's stop mode;
3. a latch is left by an operator alone;
4. velocity, the discrete braking bound to the position limits, and acceleration bound the step;
5. end-effector speed, workspace and collisions are looked at where the step leads, and where braking from it
   would end; what is refused brakes instead, along a line that was looked at before;
6. torques (impedance robots) are bounded on the measured state.

Braking is proportional: all joints slow down by one factor, so that a stop follows the line of motion.
This is software: not safety-rated.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from hardware.lookahead import LOOKS, Lookahead
from hardware.messages import Command, Observation
from hardware.spec import CHECKS, CheckMode, RobotSpec, StopMode
from hardware.torques import Gains, bounded, damped, within

_STRICTNESS = ("hold", "damp", "disable")
_START_SPEED = 0.1
_FAR = 1e9


def braking_bound(room: np.ndarray, acc: np.ndarray, dt: float) -> np.ndarray:
    """The largest velocity from which steps of `dt`, each `acc * dt` slower, stop within `room`. All `[n]`.

    With m = v / (acc dt), stopping from v takes acc dt^2 times the straight line between the values
    m (m + 1) / 2 at whole m. The root of the parabola through them, sqrt(1/4 + 2 room / (acc dt^2)) - 1/2,
    overshoots by up to acc dt^2 / 8; this is the exact inverse, which never does.
    """
    step = acc * dt
    share = np.maximum(room, 0.0) / (step * dt)
    whole = np.floor(np.sqrt(0.25 + 2.0 * share) - 0.5)
    return (0.5 * whole + share / (whole + 1.0)) * step


class Guard:
    """Filters commands for one robot. Pure: no clock, no wire; the caller gives the time."""

    def __init__(self, spec: RobotSpec) -> None:
        self.spec = spec
        config = spec.guard
        self._modes: dict[str, CheckMode] = {name: getattr(config, name) for name in CHECKS}
        n, self._dt = spec.size, 1.0 / spec.control_hz
        self._n, self._shape = n, (n,)
        self._lower = spec.array("lower") + config.position_margin
        self._upper = spec.array("upper") - config.position_margin
        self._vel = config.velocity_fraction * spec.array("vel")
        far = np.full(n, _FAR)
        self._wall = (self._lower, self._upper) if self._on("position") else (-far, far)
        # Braking needs a deceleration even where acceleration is not limited.
        self._acc = config.acceleration_fraction * spec.array("acc")
        self._dv = self._acc * self._dt
        self._all_acc = np.tile(self._acc, 3)
        self._both_vel = np.tile(self._vel if self._on("velocity") else far, 2)
        self._room = np.zeros(3 * n)
        self._still = np.zeros(n)
        self._effort, self._kp, self._kd = spec.array("effort"), spec.array("kp"), spec.array("kd")
        self._too_fast = config.measured_velocity_factor * spec.array("vel")
        self._step = config.step_factor * spec.array("vel") * self._dt
        self._impedance = spec.interface == "impedance"
        looks = any(self._modes[name] != "off" for name in LOOKS)
        self._lookahead = Lookahead(spec, self._dv, self._flag) if spec.model and looks else None
        base = spec.base
        self._base_vel = np.array(base.vel) if base else None
        self._base_dv = np.array(base.acc) * self._dt if base else np.zeros(3)
        self.counters: dict[str, int] = {}
        self.overshoot = 0.0
        """The most that braking would have passed a position limit by, rad, before the position was cut."""
        self.latched = ""
        self.asked = False
        """Whether the latch was asked for, and not tripped."""
        self.stop_mode: StopMode = spec.stop
        self.holding = False
        """Whether the last tick braked or held instead of following."""
        self._rejected: deque[int] = deque(maxlen=config.rejected_per_window)
        self._reasons: list[str] = []
        self._q, self._v = np.zeros(n), np.zeros(n)
        self._measured_q, self._measured_dq = np.zeros(n), np.zeros(n)
        self._gripper: float | None = None
        self._base = np.zeros(3)
        self._weight = 0.0
        self._ramp_from: int | None = None
        self._last_tick: int | None = None
        self._last_command = -(2**62)
        self._reach = (self._lower, self._upper)
        self._aimed: np.ndarray | None = None
        self._lost = False

    def begin(self, observation: Observation, now_ns: int) -> None:
        """Take the measured pose as the one that was sent last, at rest."""
        self._q, self._v = np.array(observation.q, dtype=np.float64), np.zeros(self._n)
        self._gripper = observation.gripper
        self._base[:], self._weight = 0.0, 0.0
        self._last_tick, self._last_command = None, -(2**62)
        self._lost = False
        self._forget()
        self.start_ramp(now_ns)

    def start_ramp(self, now_ns: int) -> None:
        """From now the velocity limit grows from a tenth to all of it."""
        self._ramp_from = now_ns

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
            self._advance(target, None if gains is None else gains[1], now_ns)
            self._advance_rest(command if gains is not None else None)
        self.holding = target is None
        return self._result(gains, now_ns)

    # What is looked at before anything moves.

    def _stalled(self, now_ns: int) -> bool:
        """Nothing was sent for long: the robot has stopped by itself, or sunk, and is not where it was sent.

        Until it is seen again nobody knows where it is.
        """
        silence = 0 if self._last_tick is None else now_ns - self._last_tick
        if silence > self.spec.cmd_timeout_ns:
            self._lost = True
            if self.spec.stop != "hold":
                self.trip(f"nothing was sent for {1e-9 * silence:.3f} s")
        return self._lost

    def _start_over(self) -> None:
        """Brake from the measured motion: going on would pull the robot back with full stiffness."""
        self._lost = False
        self._q = self._measured_q.astype(np.float64)
        self._v = within(-self._vel, self._measured_dq.astype(np.float64), self._vel)
        self._forget()

    def _see(self, observation: Observation | None, now_ns: int) -> bool:
        """Take in the measured state; whether it may be acted on."""
        spec = self.spec
        age = math.inf if observation is None else now_ns - observation.t_ns
        if observation is None or abs(age) > spec.obs_timeout_ns:
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
        error = np.abs(q - self._q)
        worst = int(error.argmax())
        if error[worst] > limit and self._weight >= 1.0:
            self._flag("tracking", f"{self.spec.names[worst]} is {error[worst]:.2f} rad from what was sent")
        speed = np.abs(dq) - self._too_fast
        worst = int(speed.argmax())
        if speed[worst] > 0:
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
        if abs(age) > self.spec.cmd_timeout_ns or now_ns > command.valid_until_ns:
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

    # How the sent position moves.

    def _advance(self, target: np.ndarray | None, rate: np.ndarray | None, now_ns: int) -> None:
        if self._limp:
            # Limp: the next position to hold is wherever the robot then is.
            self._q, self._v = self._measured_q.astype(np.float64), np.zeros(self._n)
            self._forget()
            return
        n, q, dt = self._n, self._q, self._dt
        if target is None and _same(self._v, self._still):
            return
        if target is not None:
            target, wanted, ahead = self._aim(target, rate)
            np.abs(wanted - ahead, out=self._room[2 * n :])
            self._room[2 * n :] *= dt
        np.subtract(self._wall[1], q, out=self._room[:n])
        np.subtract(q, self._wall[0], out=self._room[n : 2 * n])
        stopping = braking_bound(self._room, self._all_acc, dt)
        bounds = np.minimum(stopping[: 2 * n], self._both_vel)
        up, down = bounds[:n], -bounds[n:]
        # A pose outside the margin may stay or move in; rounding may not move out.
        self._reach = np.minimum(self._wall[0], q), np.maximum(self._wall[1], q)
        if target is not None:
            v = self._toward(wanted, ahead, stopping[2 * n :], now_ns)
            v = self._soften(np.maximum(np.minimum(v, up), down))
            if self._lookahead is not None and not self.latched:
                v = self._lookahead.allow(q, v, lambda: self._brake(down, up), self._inside)
        if target is None or self.latched:
            v = self._brake(down, up)
            self._forget()
        moved = q + v * dt
        kept = self._inside(moved)
        if not _same(kept, moved):
            self.overshoot = max(self.overshoot, float(np.abs(moved - kept).max()))
        self._q, self._v = kept, v

    def _forget(self) -> None:
        self._aimed = None
        if self._lookahead is not None:
            self._lookahead.forget()

    def _inside(self, q: np.ndarray) -> np.ndarray:
        return within(self._reach[0], q, self._reach[1])

    def _aim(self, target: np.ndarray, rate: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The target within position limits, the velocity to get there in a tick, and the target's own."""
        inside = target
        if self._modes["position"] != "off":
            inside = np.maximum(np.minimum(target, self._upper), self._lower)
            if not _same(inside, target):
                self._flag("position", "a target is outside the position limits")
                inside = inside if self._on("position") else target
        away = inside - self._q
        if self._modes["step"] != "off" and (np.abs(away) > self._step).any():
            self._flag("step", "a target is a jump away from the last one")
        if rate is None:
            rate = (inside - self._aimed) / self._dt if self._aimed is not None else self._still
        self._aimed = inside
        return inside, away / self._dt, np.maximum(np.minimum(rate, self._vel), -self._vel)

    def _toward(self, wanted: np.ndarray, ahead: np.ndarray, closing: np.ndarray, now_ns: int) -> np.ndarray:
        """The velocity toward a target that moves on at `ahead`, closing in so that it is not overshot."""
        v = wanted
        if self._modes["velocity"] != "off":
            share = self._ramp(now_ns)
            fastest = self._vel if share >= 1.0 else share * self._vel
            v = np.maximum(np.minimum(wanted, fastest), -fastest)
            if not _same(v, wanted):
                self._flag("velocity", "a target asks for more than the velocity limit")
                v = v if self._on("velocity") else wanted
        if self._on("acceleration"):
            v = np.maximum(np.minimum(v, ahead + closing), ahead - closing)
            if self._on("velocity"):
                v = np.maximum(np.minimum(v, fastest), -fastest)
        return v

    def _soften(self, v: np.ndarray) -> np.ndarray:
        if self._modes["acceleration"] == "off":
            return v
        softer = np.maximum(np.minimum(v, self._v + self._dv), self._v - self._dv)
        if _same(softer, v):
            return v
        self._flag("acceleration", "a target asks for more than the acceleration limit")
        return softer if self._on("acceleration") else v

    def _brake(self, down: np.ndarray, up: np.ndarray) -> np.ndarray:
        """The velocity one period into a stop."""
        longest = float(np.maximum.reduce(np.abs(self._v) / self._dv))
        if longest <= 1.0:
            return np.zeros(self._n)
        v = self._v * (1.0 - 1.0 / longest)
        v = np.maximum(np.minimum(v, up), down)
        return np.maximum(np.minimum(v, self._v + self._dv), self._v - self._dv)

    def _ramp(self, now_ns: int) -> float:
        if self._ramp_from is None or self.spec.guard.start_ramp_s == 0:
            return 1.0
        share = 1e-9 * (now_ns - self._ramp_from) / self.spec.guard.start_ramp_s
        if share >= 1.0:
            self._ramp_from = None
        return min(1.0, max(0.0, _START_SPEED + (1.0 - _START_SPEED) * share))

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
            valid_until_ns=now_ns + self.spec.cmd_timeout_ns,
            q=self._q.copy(),
            dq=self._v.copy(),
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
            gains, self._q - self._measured_q, self._v - self._measured_dq, self._effort
        )
        if excessive and self._flag("torque", "gains and torques ask for more than the effort limit"):
            return less
        return gains

    # Modes and counters.

    @property
    def _limp(self) -> bool:
        """Whether the robot is not held: what moves it is the world."""
        return bool(self.latched) and self.stop_mode != "hold"

    def _on(self, name: str) -> bool:
        return self._modes[name] in ("clamp", "trip")

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


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Bitwise equal: ten times as fast as comparing small arrays."""
    return a.tobytes() == b.tobytes()


def _floats(value: object, shape: tuple[int, ...]) -> np.ndarray | None:
    """A float64 array of this shape whose numbers are finite; None otherwise."""
    if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype.kind not in "fiu":
        return None
    array = value if value.dtype == np.float64 else value.astype(np.float64)
    return array if math.isfinite(array.dot(array)) else None
