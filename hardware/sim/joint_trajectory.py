"""A joint-trajectory controller: the rules of ros2_controllers', for simulated arms.

A trajectory replaces the one before it. Points in the past are dropped, and until the first one left the
controller interpolates from where it was going when the trajectory arrived (there the parameter is called
`interpolate_from_desired_state`). Points with velocities are joined by cubics, without by straight lines.
After the last point it holds.
"""

from __future__ import annotations

import numpy as np

from hardware.transport.idl_ros import JointTrajectory

__all__ = ["JointTrajectoryController"]


class JointTrajectoryController:
    """Follows trajectories of named joints. Times are wall-clock nanoseconds, as in message headers.

    Args:
        joints: names; trajectories may list them in any order.
        q: where the joints are now `[n]`.
        acceleration: rad/s^2 (m/s^2) used for stopping.
    """

    def __init__(self, joints: tuple[str, ...], q: np.ndarray, *, acceleration: float = 5.0) -> None:
        self.joints = joints
        self.acceleration = acceleration
        self.reset(q)

    def reset(self, q: np.ndarray) -> None:
        """Forget everything and hold these positions `[n]`."""
        self._start_ns = 0
        self._times = np.zeros(1)
        self._q = np.array(q, np.float64)[None]
        self._dq: np.ndarray | None = np.zeros_like(self._q)

    def accept(self, trajectory: JointTrajectory, now_ns: int) -> str:
        """Follow a trajectory from now on; returns why it was refused, or "" if it was not."""
        if sorted(trajectory.joint_names) != sorted(self.joints):
            return f"joint names are {trajectory.joint_names}, not {list(self.joints)}"
        if not trajectory.points:
            return "no points"
        n, points = len(self.joints), trajectory.points
        with_velocities = all(len(p.velocities) == n for p in points)
        if any(len(p.positions) != n or len(p.velocities) not in (0, n) for p in points):
            return f"every point needs {n} positions, and {n} velocities or none"
        order = [trajectory.joint_names.index(name) for name in self.joints]
        q = np.array([p.positions for p in points])[:, order]
        dq = np.array([p.velocities for p in points])[:, order] if with_velocities else None
        times = np.array([p.time_from_start.ns for p in points])
        if not np.isfinite(q).all() or (dq is not None and not np.isfinite(dq).all()):
            return "not finite"
        if times[0] < 0 or (np.diff(times) <= 0).any():
            return "times must increase"
        if dq is not None and dq[-1].any():
            return "the last velocity must be zero"
        times += trajectory.header.stamp.ns or now_ns
        ahead = int(np.searchsorted(times, now_ns, side="right"))
        if ahead == len(times):
            return "all points are in the past"
        here, speed = self.sample(now_ns)
        self._start_ns = now_ns
        self._times = np.concatenate([[0.0], 1e-9 * (times[ahead:] - now_ns)])
        self._q = np.concatenate([here[None], q[ahead:]])
        self._dq = None if dq is None else np.concatenate([speed[None], dq[ahead:]])
        return ""

    def stop(self, now_ns: int) -> None:
        """Brake at `acceleration` and hold where that ends."""
        q, dq = self.sample(now_ns)
        duration = float(np.abs(dq).max()) / self.acceleration
        self._start_ns = now_ns
        self._times = np.array([0.0, max(duration, 1e-6)])
        self._q = np.stack([q, q + 0.5 * duration * dq])
        self._dq = np.stack([dq, np.zeros_like(dq)])

    def sample(self, now_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities `[n]` at a time."""
        t = 1e-9 * (now_ns - self._start_ns)
        after = int(np.searchsorted(self._times, t, side="right"))
        if after == len(self._times):
            return self._q[-1].copy(), np.zeros(len(self.joints))
        before = max(after - 1, 0)
        span = self._times[after] - self._times[before]
        q0, q1 = self._q[before], self._q[after]
        if self._dq is None:
            slope = (q1 - q0) / span
            return q0 + slope * (t - self._times[before]), slope
        s = (t - self._times[before]) / span
        v0, v1 = span * self._dq[before], span * self._dq[after]
        a, b = 2 * (q0 - q1) + v0 + v1, 3 * (q1 - q0) - 2 * v0 - v1
        return ((a * s + b) * s + v0) * s + q0, ((3 * a * s + 2 * b) * s + v0) / span
