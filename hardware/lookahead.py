"""Where a step leads in space: end-effector speed, workspace and collisions, there and where braking ends.

What is refused brakes instead, along a line that was looked at a step before: braking itself needs no look.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hardware.collision import Nearness, Shadow, longest
from hardware.spec import RobotSpec

__all__ = ["LOOKS", "Flag", "Inside", "Lookahead"]

LOOKS = ("cartesian_speed", "workspace", "collision")
_SPEED_HEADROOM = 0.95
# The line to where braking ends is looked at once more for every so many radians that a joint turns,
_LINE_TURN, _LINE_SAMPLES = 0.05, 10
# and so often at most between two places where bodies are near and pass each other in between.
_MORE_LOOKS = 16
_UNKNOWN = 1e-6  # m, for an excess of which nothing more is known
_BRAKING_SAMPLES = (0.1, 0.2, 0.3, 0.4, 0.5)

Flag = Callable[[str, str], bool]
"""Counts what a check found, by its name and in words; whether the check is to act on it."""
Inside = Callable[[np.ndarray], np.ndarray]
"""A pose `[n]` cut to the position limits."""


class Lookahead:
    """Judges velocities on the shadow model.

    Args:
        spec: with a `model`; its guard's checks that are "off" are not looked at.
        dv: the most that a velocity changes in a period while braking `[n]`.
    """

    def __init__(self, spec: RobotSpec, dv: np.ndarray, flag: Flag) -> None:
        config = spec.guard
        self._shadow, self._dt, self._dv, self._flag = Shadow(spec), 1.0 / spec.control_hz, dv, flag
        self._limit = _SPEED_HEADROOM * config.max_ee_speed
        self._speed = config.cartesian_speed != "off" and bool(spec.end_effectors)
        self._box = config.workspace != "off" and spec.workspace is not None
        self._bodies = config.collision != "off"
        self.forget()

    def forget(self) -> None:
        """The robot was moved or braked without being looked at."""
        self._sites: np.ndarray | None = None
        self._excess = (0.0, 0.0)
        self._clearance = 0.0

    def allow(
        self, q: np.ndarray, v: np.ndarray, brake: Callable[[], np.ndarray], inside: Inside
    ) -> np.ndarray:
        """The velocity `[n]` that speed, workspace and collisions allow: `v`, less of it, or braking.

        Args:
            q: the position it starts from `[n]`.
            brake: the velocity one period into a stop `[n]`.
        """
        shadow, dt = self._shadow, self._dt
        if self._sites is None:
            self._sites = shadow.place(q)
            self._excess = self._excess_here(self._sites)
        sites = shadow.place(q + v * dt)
        if self._speed and _longest(sites - self._sites) > self._limit * dt:
            v = self._slower(q, v, brake)
            sites = shadow.place(q + v * dt)
        speeds = np.abs(v)
        steps = float(np.maximum.reduce(speeds / self._dv))
        total = float(np.add.reduce(speeds))
        lasts = dt * (1.0 + 0.5 * max(steps - 1.0, 0.0))
        end = q + v * lasts
        if total * lasts * shadow.reach < self._clearance:
            excess = (0.0, 0.0)
            self._clearance -= total * dt * shadow.reach
        else:
            excess = self._along(q, sites, inside(end))
        refused = self._speed and self._speeds_up(q, v, steps, total, sites, end, inside)
        for name, here, before in zip(LOOKS[1:], excess, self._excess, strict=True):
            if here > before:
                refused |= self._flag(name, f"the {name} limit is {here:.4f} m behind")
        if refused:
            self._clearance = 0.0
            v = brake()
            sites = shadow.place(q + v * dt)
        else:
            self._excess = excess
        self._sites = sites
        return v

    def _along(self, q: np.ndarray, sites: np.ndarray, end: np.ndarray) -> tuple[float, float]:
        """The worst excess at the next pose and on the line to where braking from it ends."""
        excess = self._excess_here(sites)
        self._clearance = self._room_around(sites)
        turn = float(np.abs(end - q).max())
        count = 1 + min(_LINE_SAMPLES, int(turn / _LINE_TURN))
        line = _Line(self._shadow, q, end, _MORE_LOOKS if self._bodies else 0)
        for index in range(count):
            line.on((index + 1) / count, self._excess_here)
        return max(excess[0], line.excess[0]), max(excess[1], line.excess[1])

    def _room_around(self, sites: np.ndarray) -> float:
        """How far every point may move before a limit in space can be reached: not looked at until then."""
        return min(
            self._shadow.room(sites) if self._box else np.inf,
            self._shadow.distance if self._bodies else np.inf,
        )

    def _excess_here(self, sites: np.ndarray) -> tuple[float, float]:
        return (
            self._shadow.outside(sites) if self._box else 0.0,
            self._shadow.penetration() if self._bodies else 0.0,
        )

    def _speeds_up(
        self,
        q: np.ndarray,
        v: np.ndarray,
        steps: float,
        total: float,
        sites: np.ndarray,
        end: np.ndarray,
        inside: Inside,
    ) -> bool:
        """Whether an end effector becomes faster than allowed while braking.

        On a straight line in joint space it may: lever arms change. Joints that reach
        their position limit stop there before the others do.
        """
        assert self._sites is not None
        shadow, dt, limit = self._shadow, self._dt, self._limit * self._dt
        # While every joint turns by at most v * steps * dt / 2, so much can lever arms add.
        if _longest(sites - self._sites) + shadow.reach * total * total * 0.5 * steps * dt * dt <= limit:
            return False
        free = inside(end) == end
        fast = not free.all() and _longest(shadow.place(q + v * free * dt) - self._sites) > limit
        motions = (v,) if free.all() else (v, v * free)
        for share in _BRAKING_SAMPLES:
            middle = inside(q + v * (steps * dt * share * (1.0 - 0.5 * share)))
            here = shadow.place(middle)
            for motion in motions:
                fast = fast or _longest(shadow.place(middle + motion * (dt * (1.0 - share))) - here) > limit
        return fast and self._flag("cartesian_speed", "an end effector would be too fast while braking")

    def _slower(self, q: np.ndarray, v: np.ndarray, brake: Callable[[], np.ndarray]) -> np.ndarray:
        """Between braking and `v`, the fastest that keeps every end effector within the speed limit.

        Both ends keep the joint limits, hence all between them does; the squared speed is a parabola there.
        """
        if not self._flag("cartesian_speed", "an end effector would be too fast"):
            return v
        slow = brake()
        jacobians = self._shadow.jacobians(q)
        at_slow, change = jacobians @ slow, jacobians @ (v - slow)
        a = np.square(change).sum(axis=1)
        b = (at_slow * change).sum(axis=1)
        c = np.square(at_slow).sum(axis=1) - self._limit * self._limit
        root = (-b + np.sqrt(np.maximum(b * b - a * c, 0.0))) / np.maximum(a, 1e-300)
        share = float(np.where(c >= 0.0, 0.0, np.minimum(root, 1.0)).min())
        return slow + max(share, 0.0) * (v - slow)


@dataclass(slots=True)
class _Look:
    share: float
    centres: np.ndarray
    distance: float
    nearness: Nearness | None = None


class _Line:
    """Looks along a line of poses from `q` to `end` `[n]`, and closer where bodies may pass each other.

    Args:
        more: so many looks at most are added; where they are not enough, bodies count as too near.
    """

    def __init__(self, shadow: Shadow, q: np.ndarray, end: np.ndarray, more: int) -> None:
        self._shadow, self._q, self._way, self._more = shadow, q, end - q, more
        self._looks_closer = more > 0
        self._last = _Look(0.0, shadow.centres, shadow.distance)
        self.excess = (0.0, 0.0)

    def on(self, share: float, look: Callable[[np.ndarray], tuple[float, float]]) -> None:
        """Go on to a share of the way."""
        pending = [self._at(share, look)]
        while pending:
            nearer = 0.5 * (self._last.share + pending[-1].share)
            if not self._looks_closer or self.excess[1] or not self._may_have_met(self._last, pending[-1]):
                self._last = pending.pop()
            elif self._more > 0:
                self._more -= 1
                pending.append(self._at(nearer, look))
            else:
                self.excess = self.excess[0], _UNKNOWN

    def _at(self, share: float, look: Callable[[np.ndarray], tuple[float, float]]) -> _Look:
        here = look(self._shadow.place(self._q + share * self._way))
        self.excess = max(self.excess[0], here[0]), max(self.excess[1], here[1])
        found = _Look(share, self._shadow.centres, self._shadow.distance)
        if _far(self._last, found):
            found.nearness = self._shadow.nearness()
        return found

    def _may_have_met(self, one: _Look, other: _Look) -> bool:
        if not _far(one, other):
            return False
        for seen in (one, other):
            if seen.nearness is None:
                self._shadow.place(self._q + seen.share * self._way)
                self._shadow.penetration()
                seen.nearness = self._shadow.nearness()
        assert one.nearness is not None
        assert other.nearness is not None
        return one.nearness.may_have_met(other.nearness)


def _far(one: _Look, other: _Look) -> bool:
    """Whether anything moved farther than bodies have room."""
    return 2.0 * longest(other.centres - one.centres) > one.distance + other.distance


def _longest(vectors: np.ndarray) -> float:
    """The largest norm of `[E, 3]`; E is one or two, where plain floats are faster than arrays."""
    return max(math.hypot(*vector) for vector in vectors.tolist())
