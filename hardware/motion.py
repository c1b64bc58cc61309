"""How the sent position moves: by at most one period of an allowed velocity, and so that it can always stop.

Velocity, the discrete braking bound to the position limits, and acceleration bound the step; what it leads to
in space is judged by `Lookahead`. Braking is proportional: all joints slow down by one factor, so that a stop
follows the line of motion.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hardware.lookahead import LOOKS, Flag, Lookahead
from hardware.spec import RobotSpec
from hardware.torques import within

__all__ = ["Motion", "braking_bound", "braking_way"]

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


def braking_way(v: np.ndarray, acc: np.ndarray, dt: float) -> np.ndarray:
    """How far steps of `dt` lead that stop from `v`, the first already `acc * dt` slower. All `[n]`."""
    step = acc * dt
    share = np.abs(v) / step
    whole = np.floor(share)
    return (share - 0.5 * (whole + 1.0)) * whole * step * dt


class Motion:
    """The position that was sent last, its velocity, and where they go from there.

    Args:
        flag: counts what a check found; whether the check is to act on it.
        latched: whether the robot is to stop: a check may have tripped meanwhile.
    """

    def __init__(self, spec: RobotSpec, flag: Flag, latched: Callable[[], bool]) -> None:
        config = spec.guard
        n, self._dt = spec.size, 1.0 / spec.control_hz
        self._n, self._flag, self._latched = n, flag, latched
        self._looks_at = {name: getattr(config, name) != "off" for name in ("position", "velocity", "step")}
        self._softens = config.acceleration != "off"
        self._ramp_s = config.start_ramp_s if self._looks_at["velocity"] else 0.0
        self._position, self._velocity, self._acceleration = (
            getattr(config, name) in ("clamp", "trip") for name in ("position", "velocity", "acceleration")
        )
        self._lower = spec.array("lower") + config.position_margin
        self._upper = spec.array("upper") - config.position_margin
        far = np.full(n, _FAR)
        self._limits = (self._lower, self._upper) if self._position else (-far, far)
        self._last = (spec.array("lower"), spec.array("upper")) if self._position else (-far, far)
        self._wall, self._beyond = self._limits, False
        self._vel = config.velocity_fraction * spec.array("vel")
        self._slowest = -self._vel
        # Braking needs a deceleration even where acceleration is not limited.
        self._acc = config.acceleration_fraction * spec.array("acc")
        self._dv = self._acc * self._dt
        self._all_acc = np.tile(self._acc, 3)
        self._both_vel = np.tile(self._vel if self._velocity else far, 2)
        self._step = config.step_factor * spec.array("vel") * self._dt
        self._room = np.zeros(3 * n)
        self._still = np.zeros(n)
        self._ease, self._easy = np.zeros(3 * n), np.concatenate([self._dv, self._dv, self._vel])
        self._half_per_acc = 0.5 / self._acc
        looks = any(getattr(config, name) != "off" for name in LOOKS)
        self._lookahead = Lookahead(spec, self._dv, flag) if spec.model and looks else None
        self.overshoot = 0.0
        """The most that braking would have passed a position limit by, rad, before the position was cut."""
        self._reach = (self._lower, self._upper)
        self._ramp_from: int | None = None
        self.place(np.zeros(n))

    def place(self, q: np.ndarray, v: np.ndarray | None = None) -> None:
        """Start from joint positions `[n]`, at rest or moving with `v` `[n]`: others moved it.

        A motion that cannot be stopped within the position limits is braked as fast as acceleration allows,
        into the margin that they keep from the vendor's limits if need be.
        """
        self.q = np.array(q, dtype=np.float64)
        self.v = self._still if v is None else within(self._slowest, v.astype(np.float64), self._vel)
        self._wall, self._beyond = self._limits, v is not None
        self._forget()

    def start_ramp(self, now_ns: int) -> None:
        """From now the velocity limit grows from a tenth to all of it."""
        self._ramp_from = now_ns if self._ramp_s > 0 else None

    def follow(self, target: np.ndarray, rate: np.ndarray | None, now_ns: int) -> None:
        """One tick toward a target `[n]` that moves on at `rate` `[n]`; into a stop once that is latched."""
        wanted, ahead = self._aim(target, rate)
        self._set_reach()
        v = wanted if self._at_ease(wanted, ahead) else self._limited(wanted, ahead, now_ns)
        if self._lookahead is not None and not self._latched():
            v = self._lookahead.allow(self.q, v, self._braked, self._inside)
        if self._latched():
            v = self._braked()
            self._forget()
        self._move(v)

    def brake(self) -> None:
        """One tick into a stop."""
        if _same(self.v, self._still):
            return
        self._set_reach()
        v = self._braked()
        self._forget()
        self._move(v)

    def _set_reach(self) -> None:
        if self._beyond:
            self._make_way()
        # A pose outside the margin may stay or move in; rounding may not move out.
        self._reach = np.minimum(self._wall[0], self.q), np.maximum(self._wall[1], self.q)

    def _make_way(self) -> None:
        """Move the walls to where braking ends, if that is beyond the limits."""
        low, high = self._limits
        way = braking_way(self.v, self._acc, self._dt)
        down = np.maximum(self.q - way * (self.v < 0), np.minimum(self._last[0], self.q))
        up = np.minimum(self.q + way * (self.v > 0), np.maximum(self._last[1], self.q))
        self._beyond = bool((down < low).any() or (up > high).any())
        self._wall = (np.minimum(down, low), np.maximum(up, high)) if self._beyond else self._limits

    def _inside(self, q: np.ndarray) -> np.ndarray:
        return within(self._reach[0], q, self._reach[1])

    def _move(self, v: np.ndarray) -> None:
        moved = self.q + v * self._dt
        kept = self._inside(moved)
        if not _same(kept, moved):
            self.overshoot = max(self.overshoot, float(np.abs(moved - kept).max()))
        self.q, self.v = kept, v

    def _forget(self) -> None:
        self._aimed: np.ndarray | None = None
        if self._lookahead is not None:
            self._lookahead.forget()

    def _aim(self, target: np.ndarray, rate: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The velocity that is at the target within position limits in a tick, and the target's own."""
        inside = target
        if self._looks_at["position"]:
            inside = within(self._lower, target, self._upper)
            if not _same(inside, target):
                self._flag("position", "a target is outside the position limits")
                inside = inside if self._position else target
        away = inside - self.q
        if self._looks_at["step"] and (np.abs(away) > self._step).any():
            self._flag("step", "a target is a jump away from the last one")
        if rate is None:
            rate = (inside - self._aimed) / self._dt if self._aimed is not None else self._still
        self._aimed = inside
        return away / self._dt, within(self._slowest, rate, self._vel)

    def _at_ease(self, wanted: np.ndarray, ahead: np.ndarray) -> bool:
        """Whether the wanted velocity passes no limit, told in a few operations: the usual case.

        From v a joint stops within v (v / (2 acc) + dt), so what has that much room needs no closer look.
        """
        if self._ramp_from is not None:
            return False
        n, ease = self._n, self._ease
        np.subtract(wanted, ahead, out=ease[:n])
        np.subtract(wanted, self.v, out=ease[n : 2 * n])
        ease[2 * n :] = wanted
        np.abs(ease, out=ease)
        if np.count_nonzero(ease > self._easy):
            return False
        speed = ease[2 * n :]
        stopping = speed * (speed * self._half_per_acc + self._dt)
        room = np.minimum(self._wall[1] - self.q, self.q - self._wall[0])
        return not np.count_nonzero(stopping > room)

    def _limited(self, wanted: np.ndarray, ahead: np.ndarray, now_ns: int) -> np.ndarray:
        """The wanted velocity within every limit of the joints."""
        n, room = self._n, self._room
        np.abs(wanted - ahead, out=room[2 * n :])
        room[2 * n :] *= self._dt
        stopping = braking_bound(self._rooms(room), self._all_acc, self._dt)
        bounds = np.minimum(stopping[: 2 * n], self._both_vel)
        v = self._toward(wanted, ahead, stopping[2 * n :], now_ns)
        return self._soften(within(-bounds[n:], v, bounds[:n]))

    def _rooms(self, room: np.ndarray) -> np.ndarray:
        """Fill in the ways up `[n]` and down `[n]` to the position limits."""
        n = self._n
        np.subtract(self._wall[1], self.q, out=room[:n])
        np.subtract(self.q, self._wall[0], out=room[n : 2 * n])
        return room

    def _toward(self, wanted: np.ndarray, ahead: np.ndarray, closing: np.ndarray, now_ns: int) -> np.ndarray:
        """The velocity toward a target that moves on at `ahead`, closing in so that it is not overshot."""
        v, fastest = wanted, self._vel
        if self._looks_at["velocity"]:
            share = self._ramp(now_ns)
            fastest = self._vel if share >= 1.0 else share * self._vel
            v = within(-fastest, wanted, fastest)
            if not _same(v, wanted):
                self._flag("velocity", "a target asks for more than the velocity limit")
                v = v if self._velocity else wanted
        if self._acceleration:
            v = within(ahead - closing, v, ahead + closing)
            if self._velocity:
                v = within(-fastest, v, fastest)
        return v

    def _soften(self, v: np.ndarray) -> np.ndarray:
        if not self._softens:
            return v
        softer = within(self.v - self._dv, v, self.v + self._dv)
        if _same(softer, v):
            return v
        self._flag("acceleration", "a target asks for more than the acceleration limit")
        return softer if self._acceleration else v

    def _braked(self) -> np.ndarray:
        """The velocity one period into a stop."""
        longest = float(np.maximum.reduce(np.abs(self.v) / self._dv))
        if longest <= 1.0:
            return self._still
        n = self._n
        stopping = braking_bound(self._rooms(self._room)[: 2 * n], self._all_acc[: 2 * n], self._dt)
        bounds = np.minimum(stopping, self._both_vel)
        v = within(-bounds[n:], self.v * (1.0 - 1.0 / longest), bounds[:n])
        return within(self.v - self._dv, v, self.v + self._dv)

    def _ramp(self, now_ns: int) -> float:
        if self._ramp_from is None:
            return 1.0
        share = 1e-9 * (now_ns - self._ramp_from) / self._ramp_s
        if share >= 1.0:
            self._ramp_from = None
        return min(1.0, max(0.0, _START_SPEED + (1.0 - _START_SPEED) * share))


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Bitwise equal: ten times as fast as comparing small arrays."""
    return a.tobytes() == b.tobytes()
