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

from hardware.collision import Shadow
from hardware.messages import Command, Observation
from hardware.spec import CHECKS, CheckMode, RobotSpec, StopMode

_STRICTNESS = ("hold", "damp", "disable")
_START_SPEED = 0.1
_SPEED_HEADROOM = 0.95
_FAR = 1e9
# The line to where braking ends is looked at once more for every so many radians that a joint turns.
_LINE_TURN, _LINE_SAMPLES = 0.05, 10
_BRAKING_SAMPLES = (0.1, 0.3, 0.5)


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
        looks = [name for name in ("cartesian_speed", "workspace", "collision") if self._modes[name] != "off"]
        self._shadow = Shadow(spec) if spec.model and looks else None
        self._looks_at_speed = "cartesian_speed" in looks and bool(spec.end_effectors)
        self._looks_at_box = "workspace" in looks and spec.workspace is not None
        self._looks_at_bodies = "collision" in looks
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
        self._clearance = 0.0
        self._sites: np.ndarray | None = None
        self._excess = (0.0, 0.0)

    def begin(self, observation: Observation, now_ns: int) -> None:
        """Take the measured pose as the one that was sent last, at rest."""
        self._q, self._v = np.array(observation.q, dtype=np.float64), np.zeros(self._n)
        self._gripper = observation.gripper
        self._base[:], self._weight = 0.0, 0.0
        self._last_tick, self._last_command = None, -(2**62)
        self._sites, self._aimed, self._clearance = None, None, 0.0
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
        if self._see(observation, now_ns) and not self.latched and command is not None:
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

    def _see(self, observation: Observation | None, now_ns: int) -> bool:
        """Take in the measured state; whether it may be acted on."""
        spec, config = self.spec, self.spec.guard
        age = math.inf if observation is None else now_ns - observation.t_ns
        if observation is None or abs(age) > 1e9 * spec.obs_timeout_s:
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
        if config.tracking != "off" and not (self.latched and self.stop_mode != "hold"):
            self._check_tracking(q, dq)
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
        if abs(age) > 1e9 * self.spec.cmd_timeout_s or now_ns > command.valid_until_ns:
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
        if self.latched and self.stop_mode != "hold":
            # Limp: the next position to hold is wherever the robot then is.
            self._q, self._v = self._measured_q.astype(np.float64), np.zeros(self._n)
            self._sites, self._aimed, self._clearance = None, None, 0.0
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
            if self._shadow is not None and not self.latched:
                v = self._look(self._shadow, v, down, up)
        if target is None or self.latched:
            v = self._brake(down, up)
            self._sites, self._aimed, self._clearance = None, None, 0.0
        moved = q + v * dt
        kept = self._inside(moved)
        if not _same(kept, moved):
            self.overshoot = max(self.overshoot, float(np.abs(moved - kept).max()))
        self._q, self._v = kept, v

    def _inside(self, q: np.ndarray) -> np.ndarray:
        low, high = self._reach
        return np.maximum(np.minimum(q, high), low)

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

    def _look(self, shadow: Shadow, v: np.ndarray, down: np.ndarray, up: np.ndarray) -> np.ndarray:
        """The velocity that speed, workspace and collisions allow: `v`, less of it, or braking."""
        q, dt = self._q, self._dt
        if self._sites is None:
            self._sites = shadow.place(q)
            self._excess = self._excess_here(shadow, self._sites)
        sites = shadow.place(q + v * dt)
        limit = _SPEED_HEADROOM * self.spec.guard.max_ee_speed
        if self._looks_at_speed and _longest(sites - self._sites) > limit * dt:
            v = self._slower(shadow, v, down, up, limit)
            sites = shadow.place(q + v * dt)
        steps = float(np.maximum.reduce(np.abs(v) / self._dv))
        total = float(np.add.reduce(np.abs(v)))
        lasts = dt * (1.0 + 0.5 * max(steps - 1.0, 0.0))
        end = q + v * lasts
        if total * lasts * shadow.reach < self._clearance:
            excess = (0.0, 0.0)
            self._clearance -= total * dt * shadow.reach
        else:
            excess = self._along(shadow, sites, self._inside(end))
        refused = self._looks_at_speed and self._speeds_up(shadow, v, steps, total, sites, end)
        for name, here, before in zip(("workspace", "collision"), excess, self._excess, strict=True):
            if here > before:
                self._flag(name, f"the {name} limit is {here:.4f} m behind")
                refused |= self._on(name)
        if refused:
            self._clearance = 0.0
            v = self._brake(down, up)
            sites = shadow.place(q + v * dt)
        else:
            self._excess = excess
        self._sites = sites
        return v

    def _along(self, shadow: Shadow, sites: np.ndarray, end: np.ndarray) -> tuple[float, float]:
        """The worst excess at the next pose and on the line to where braking from it ends."""
        excess = self._excess_here(shadow, sites)
        self._clearance = self._room_around(shadow, sites)
        turn = float(np.abs(end - self._q).max())
        count = 1 + min(_LINE_SAMPLES, int(turn / _LINE_TURN))
        for index in range(count):
            middle = self._q + (index + 1) / count * (end - self._q)
            later = self._excess_here(shadow, shadow.place(middle))
            excess = (max(excess[0], later[0]), max(excess[1], later[1]))
        return excess

    def _room_around(self, shadow: Shadow, sites: np.ndarray) -> float:
        """How far every point may move before a limit in space can be reached: not looked at until then."""
        return min(
            shadow.room(sites) if self._looks_at_box else np.inf,
            shadow.distance() if self._looks_at_bodies else np.inf,
        )

    def _speeds_up(
        self,
        shadow: Shadow,
        v: np.ndarray,
        steps: float,
        total: float,
        sites: np.ndarray,
        end: np.ndarray,
    ) -> bool:
        """Whether braking from `v` would pass the speed limit on the way: joints may slow and hands not.

        Joints that would end beyond their position limit stop there before the others do.
        """
        assert self._sites is not None
        q, dt, limit = self._q, self._dt, _SPEED_HEADROOM * self.spec.guard.max_ee_speed * self._dt
        # While every joint turns by at most v * steps * dt / 2, so much can lever arms add.
        if _longest(sites - self._sites) + shadow.reach * total * total * 0.5 * steps * dt * dt <= limit:
            return False
        free = self._inside(end) == end
        fast = not free.all() and _longest(shadow.place(q + v * free * dt) - self._sites) > limit
        for share in _BRAKING_SAMPLES:
            middle = q + v * (steps * dt * share * (1.0 - 0.5 * share))
            here = shadow.place(middle)
            fast = fast or _longest(shadow.place(middle + v * (dt * (1.0 - share))) - here) > limit
        if fast:
            self._flag("cartesian_speed", "an end effector would be too fast while braking")
        return fast and self._on("cartesian_speed")

    def _excess_here(self, shadow: Shadow, sites: np.ndarray) -> tuple[float, float]:
        return (
            shadow.outside(sites) if self._looks_at_box else 0.0,
            shadow.penetration() if self._looks_at_bodies else 0.0,
        )

    def _slower(
        self, shadow: Shadow, v: np.ndarray, down: np.ndarray, up: np.ndarray, limit: float
    ) -> np.ndarray:
        """Between braking and `v`, the fastest that keeps every end effector within the speed limit.

        Both ends keep the joint limits, hence all between them does; the squared speed is a parabola there.
        """
        self._flag("cartesian_speed", "an end effector would be too fast")
        if not self._on("cartesian_speed"):
            return v
        slow = self._brake(down, up)
        jacobians = shadow.jacobians(self._q)
        at_slow, change = jacobians @ slow, jacobians @ (v - slow)
        a = np.square(change).sum(axis=1)
        b = (at_slow * change).sum(axis=1)
        c = np.square(at_slow).sum(axis=1) - limit * limit
        root = (-b + np.sqrt(np.maximum(b * b - a * c, 0.0))) / np.maximum(a, 1e-300)
        share = float(np.where(c >= 0.0, 0.0, np.minimum(root, 1.0)).min())
        return slow + max(share, 0.0) * (v - slow)

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
            if self.latched and self.stop_mode != "hold":
                self._base = np.zeros(3)
            else:
                self._base = np.maximum(
                    np.minimum(asked, self._base + self._base_dv), self._base - self._base_dv
                )

    def _result(self, gains: tuple[np.ndarray | None, ...] | None, now_ns: int) -> Command:
        n = self._n
        result = Command(
            t_ns=now_ns,
            valid_until_ns=now_ns + round(1e9 * self.spec.cmd_timeout_s),
            q=self._q.copy(),
            dq=self._v.copy(),
            gripper=self._gripper,
            base=None if self._base_vel is None else self._base.copy(),
            weight=self._weight,
        )
        if self._impedance:
            tau, kp, kd = (None, None, None) if gains is None else gains[2:]
            if self.latched and self.stop_mode != "hold":
                kp = np.zeros(n)
                damping = self.spec.damping if self.stop_mode == "damp" else 0.0
                result.kp, result.kd, result.tau_ff = self._bounded(None, kp, np.full(n, damping))
            else:
                kp = self._kp if kp is None else np.maximum(np.minimum(kp, self._kp), 0.0)
                kd = self._kd if kd is None else np.maximum(np.minimum(kd, self._kd), 0.0)
                result.kp, result.kd, result.tau_ff = self._bounded(tau, kp, kd)
        result.reasons = tuple(self._reasons)
        return result

    def _bounded(
        self, tau: np.ndarray | None, kp: np.ndarray, kd: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gains and torques whose sum on the measured state is within the effort limits."""
        feedback = kp * (self._q - self._measured_q) + kd * (self._v - self._measured_dq)
        effort, total = self._effort, np.abs(feedback if tau is None else feedback + tau)
        if self._modes["torque"] == "off" or _same(np.minimum(total, effort), total):
            return kp.copy(), kd.copy(), np.zeros(self._n) if tau is None else tau.copy()
        self._flag("torque", "gains and torques ask for more than the effort limit")
        if not self._on("torque"):
            return kp.copy(), kd.copy(), np.zeros(self._n) if tau is None else tau.copy()
        share = effort / np.maximum(np.abs(feedback), effort)
        feedback *= share
        tau = np.zeros(self._n) if tau is None else tau
        return kp * share, kd * share, np.maximum(np.minimum(tau, effort - feedback), -effort - feedback)

    # Modes and counters.

    def _on(self, name: str) -> bool:
        return self._modes[name] in ("clamp", "trip")

    def _flag(self, name: str, message: str) -> None:
        """A check found something: count it, and latch where it is set to trip."""
        mode = self._modes[name]
        if mode == "off":
            return
        self._count(name)
        if mode != "warn":
            self._reasons.append(name)
        if mode == "trip":
            self.trip(message)

    def _note(self, name: str) -> None:
        self._count(name)
        self._reasons.append(name)

    def _count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Bitwise equal: ten times as fast as comparing small arrays."""
    return a.tobytes() == b.tobytes()


def _longest(vectors: np.ndarray) -> float:
    """The largest norm of `[E, 3]`; E is one or two, where plain floats are faster than arrays."""
    return max(math.hypot(*vector) for vector in vectors.tolist())


def _floats(value: object, shape: tuple[int, ...]) -> np.ndarray | None:
    """A float64 array of this shape whose numbers are finite; None otherwise."""
    if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype.kind not in "fiu":
        return None
    array = value if value.dtype == np.float64 else value.astype(np.float64)
    return array if math.isfinite(array.dot(array)) else None
