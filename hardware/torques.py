"""Gains and torques of impedance robots, whose sum on the measured state stays within the effort limits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["LEAST_DAMPING", "Gains", "bounded", "damped", "within"]

LEAST_DAMPING = 2.0
"""N m s/rad: damping is not weakened below this, so that a robot that falls is slowed whatever its speed."""


class Gains(NamedTuple):
    """Of ``tau = kp (q_target - q) + kd (dq_target - dq) + tau_ff``, each `[n]`."""

    kp: np.ndarray
    kd: np.ndarray
    tau_ff: np.ndarray


def within(low: np.ndarray | float, value: np.ndarray, high: np.ndarray | float) -> np.ndarray:
    """`np.clip`, several times as fast on small arrays."""
    clipped: np.ndarray = np.maximum(np.minimum(value, high), low)
    return clipped


def bounded(gains: Gains, away: np.ndarray, slower: np.ndarray, effort: np.ndarray) -> tuple[Gains, bool]:
    """The gains to send instead, and whether they ask for more than the effort limits.

    Gains keep their proportion; what they leave of the effort is the torque's.

    Args:
        away: target minus measured positions `[n]`.
        slower: target minus measured velocities `[n]`.
    """
    kp, kd, tau = gains
    feedback = kp * away + kd * slower
    total = np.abs(feedback + tau)
    if np.count_nonzero(total <= effort) == len(effort):
        return gains, False
    share = effort / np.maximum(np.abs(feedback), effort)
    feedback *= share
    return Gains(kp * share, kd * share, within(-effort - feedback, tau, effort - feedback)), True


def damped(damping: float, dq: np.ndarray, effort: np.ndarray) -> Gains:
    """Joints that are slowed and not held: kp and torque are exactly 0.

    The damping is at most what the effort allows at this speed, and never under `LEAST_DAMPING`; the motors
    themselves limit what that asks for.
    """
    still = np.zeros(len(dq))
    kd = np.minimum(effort / np.maximum(np.abs(dq), 1e-9), damping)
    return Gains(still, np.maximum(kd, min(LEAST_DAMPING, damping)), still.copy())
