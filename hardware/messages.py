"""What travels between policy, executor, guard and driver.

SI units (rad, m, s, N m), joints in the order of `RobotSpec.joints`, quaternions wxyz, and time as
`time.monotonic_ns` of the machine that runs the control process. Wall and ROS time stay in headers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["ActionChunk", "Command", "Measured", "Observation"]


@dataclass(frozen=True, slots=True)
class Measured:
    """Something that is measured at times of its own: an object's pose, a picture, an IMU's reading."""

    t_ns: int
    """When it was measured, monotonic."""
    value: np.ndarray
    """A pose: `[7]`, metres and a quaternion, real part first. An image: uint8 `[H, W, 3]`."""


@dataclass(slots=True, kw_only=True)
class Observation:
    """One measured state of the robot."""

    seq: int
    """Counts up; a message that does not is dropped."""
    t_ns: int
    """When it was received, monotonic."""
    q: np.ndarray
    """Joint positions `[n]`."""
    dq: np.ndarray
    """Joint velocities `[n]`."""
    tau: np.ndarray
    """Joint torques `[n]`."""
    t_src_ns: int | None = None
    """When it was measured, on this machine's monotonic clock, where the robot tells."""
    gripper: float | None = None
    """Opening in metres."""
    streams: Mapping[str, Measured] = field(default_factory=dict)
    """The newest of what else the robot tells: poses, pictures, IMU, temperatures."""


@dataclass(slots=True, kw_only=True)
class Command:
    """What one tick asks of the robot, and, as `Robot.write` returns it, what was really sent.

    A field that is None is left to the guard: positions hold, gains are those of the spec.
    """

    t_ns: int
    """When it was made, monotonic."""
    valid_until_ns: int
    """After this it is stale, whatever its age."""
    q: np.ndarray | None = None
    """Target positions `[n]`."""
    dq: np.ndarray | None = None
    """How fast the targets move `[n]`: a moving one is followed without lag, one at rest without overshoot.
    Without it, the difference of two targets. What is sent is the velocity of the sent positions."""
    tau_ff: np.ndarray | None = None
    """Torques added to those of the gains `[n]`."""
    kp: np.ndarray | None = None
    kd: np.ndarray | None = None
    """Gains `[n]` of `tau = kp (q_target - q) + kd (dq_target - dq) + tau_ff`."""
    gripper: float | None = None
    """Target opening in metres."""
    base: np.ndarray | None = None
    """Base velocity `[3]`: forward, left (m/s) and yaw (rad/s), for robots that walk by themselves."""
    weight: float = 1.0
    """Authority over the robot's own controller, 0 to 1: ramped by arming."""
    reasons: tuple[str, ...] = ()
    """Why what was sent differs from what was asked: names of guard checks and events."""


@dataclass(slots=True, kw_only=True)
class ActionChunk:
    """Actions at absolute times: row i is for ``t0_ns + i * dt_ns``."""

    t_obs_ns: int
    """Capture time of the newest observation the policy used."""
    t0_ns: int
    dt_ns: int
    actions: np.ndarray
    """`[T, Da]`; for the executor, joint positions and, with a gripper, its opening last."""
    meta: Mapping[str, Any] = field(default_factory=dict)
