"""Poses of end effectors: where joints put them, and joints that put them somewhere.

Inverse kinematics is damped least squares within the joint limits; spare joints are drawn to the home
posture.
"""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np

from hardware.collision import Shadow
from hardware.spec import RobotSpec
from robopolicy.errors import SpecMismatch

__all__ = ["Goal", "Kinematics", "Pose", "approach", "axis_angle", "matrix"]

Pose = tuple[np.ndarray, np.ndarray]
"""Position `[3]`, metres, and rotation `[3, 3]`."""
Goal = tuple[np.ndarray, np.ndarray | None]
"""A pose whose rotation may be left free."""
_SUBSTEPS = 10
_LARGEST_STEP = 0.3  # rad, of one iteration


class Kinematics:
    """Kinematics of a robot's model, in its world frame.

    Args:
        joints: those that may move; the others stay where they are.
        posture_gain: share of the way to the home posture that spare joints go in an iteration.
    """

    def __init__(
        self,
        spec: RobotSpec,
        joints: Sequence[str],
        *,
        iterations: int,
        damping: float,
        posture_gain: float,
        tolerance_m: float,
        tolerance_rad: float,
    ) -> None:
        self._shadow = Shadow(spec)
        model = self._shadow.model
        self._moving = np.array([spec.index(name) for name in joints])
        self._dof = np.array([int(model.joint(name).dofadr[0]) for name in joints])
        self._lower = spec.array("lower") + spec.guard.position_margin
        self._upper = spec.array("upper") - spec.guard.position_margin
        self._home = spec.array("home")
        self._iterations, self._damping, self._posture_gain = iterations, damping, posture_gain
        self._tolerance_m, self._tolerance_rad = tolerance_m, tolerance_rad
        self._jacobian = np.zeros((6, model.nv))

    def site(self, name: str) -> int:
        """The number of a site of the model; negative if there is none."""
        return int(mujoco.mj_name2id(self._shadow.model, mujoco.mjtObj.mjOBJ_SITE, name))

    def pose(self, site: int, q: np.ndarray) -> Pose:
        """Where joint positions `[n]` put a site."""
        self._shadow.place(q)
        data = self._shadow.data
        return data.site_xpos[site].copy(), data.site_xmat[site].reshape(3, 3).copy()

    def velocity(self, site: int, q: np.ndarray, dq: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Linear and angular velocity of a site `[3]` each; without `dq` at rest."""
        if dq is None:
            return np.zeros(3), np.zeros(3)
        shadow = self._shadow
        shadow.place(q)
        mujoco.mj_comPos(shadow.model, shadow.data)
        mujoco.mj_jacSite(shadow.model, shadow.data, self._jacobian[:3], self._jacobian[3:], site)
        both = self._jacobian[:, self._dof] @ dq[self._moving]
        return both[:3], both[3:]

    def solve(
        self, q: np.ndarray, sites: Sequence[int], goals: Sequence[Goal]
    ) -> tuple[np.ndarray, float, float]:
        """Joint positions `[n]` near `q` that bring sites to goals, and the worst distance and angle left."""
        moving = self._moving
        q = np.clip(q, np.minimum(self._lower, q), np.maximum(self._upper, q))
        for _ in range(self._iterations):
            error, jacobian, far, turned = self._errors(q, sites, goals)
            if far < self._tolerance_m and turned < self._tolerance_rad:
                break
            free = np.ones(len(moving), dtype=bool)
            step = np.zeros(len(moving))
            for _ in range(2):  # once more without the joints that are at a limit and would pass it
                used = jacobian * free
                gram = used @ used.T + self._damping**2 * np.eye(len(error))
                mujoco.mju_cholFactor(gram, 0.0)  # BLAS would start threads for it
                step = used.T @ _solved(gram, error)
                drawn = self._posture_gain * (self._home[moving] - q[moving]) * free
                step += drawn - used.T @ _solved(gram, used @ drawn)
                wanted = q[moving] + step
                stuck = (wanted < self._lower[moving]) | (wanted > self._upper[moving])
                if not stuck.any():
                    break
                free &= ~stuck
            step *= min(1.0, _LARGEST_STEP / max(float(np.abs(step).max()), 1e-12))
            wanted = np.clip(q[moving] + step, self._lower[moving], self._upper[moving])
            q = q.copy()
            q[moving] = wanted
        _, _, far, turned = self._errors(q, sites, goals)
        return q, far, turned

    def _errors(
        self, q: np.ndarray, sites: Sequence[int], goals: Sequence[Goal]
    ) -> tuple[np.ndarray, np.ndarray, float, float]:
        """Stacked errors, their Jacobian, and the worst distance and angle."""
        shadow = self._shadow
        shadow.place(q)
        mujoco.mj_comPos(shadow.model, shadow.data)
        errors, rows, far, turned = [], [], 0.0, 0.0
        for site, (position, rotation) in zip(sites, goals, strict=True):
            mujoco.mj_jacSite(shadow.model, shadow.data, self._jacobian[:3], self._jacobian[3:], site)
            away = position - shadow.data.site_xpos[site]
            errors.append(away)
            rows.append(self._jacobian[:3, self._dof].copy())
            far = max(far, float(np.linalg.norm(away)))
            if rotation is not None:
                turn = axis_angle(rotation @ shadow.data.site_xmat[site].reshape(3, 3).T)
                errors.append(turn)
                rows.append(self._jacobian[3:, self._dof].copy())
                turned = max(turned, float(np.linalg.norm(turn)))
        return np.concatenate(errors), np.concatenate(rows), far, turned


def approach(
    start: Pose,
    velocity: tuple[np.ndarray, np.ndarray],
    targets: Sequence[Goal],
    rate: float,
    dt_s: float,
) -> list[Goal]:
    """Where a critically damped controller is at the time of each target, which it holds until the next.

    The first is `start` itself. Without a target rotation the rotation is left free.

    Args:
        start: position `[3]` and rotation `[3, 3]`.
        velocity: linear and angular `[3]` each.
        rate: its natural frequency, 1/s.
    """
    (position, rotation), (linear, angular) = start, velocity
    step, found = dt_s / _SUBSTEPS, []
    for goal, turned in targets:
        found.append((position, None if turned is None else rotation))
        for _ in range(_SUBSTEPS):
            linear = linear + step * (rate * rate * (goal - position) - 2 * rate * linear)
            position = position + step * linear
            if turned is not None:
                away = axis_angle(turned @ rotation.T)
                angular = angular + step * (rate * rate * away - 2 * rate * angular)
                rotation = matrix(step * angular, "axis_angle") @ rotation
    return found


def _solved(factor: np.ndarray, right: np.ndarray) -> np.ndarray:
    result = np.empty(len(right))
    mujoco.mju_cholSolve(result, factor, right)
    return result


def matrix(value: np.ndarray, representation: str) -> np.ndarray:
    """A rotation `[3, 3]` from axis-angle, a quaternion or the two rows of Zhou et al."""
    if representation == "rot6d":
        first = value[:3] / np.linalg.norm(value[:3])
        second = value[3:] - (first @ value[3:]) * first
        second /= np.linalg.norm(second)
        return np.stack([first, second, np.cross(first, second)])
    quaternion, matrix = np.empty(4), np.empty(9)
    if representation == "axis_angle":
        angle = float(np.linalg.norm(value))
        axis = value / angle if angle > 0 else np.array([1.0, 0.0, 0.0])
        mujoco.mju_axisAngle2Quat(quaternion, axis, angle)
    elif representation in ("quat_wxyz", "quat_xyzw"):
        quaternion[:] = value if representation == "quat_wxyz" else np.roll(value, 1)
        mujoco.mju_normalize4(quaternion)
    else:
        raise SpecMismatch(f"The action's rotation part does not say what it is (got {representation!r}).")
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


def axis_angle(rotation: np.ndarray) -> np.ndarray:
    """The rotation vector `[3]` of a matrix `[3, 3]`."""
    quaternion, velocity = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quaternion, rotation.ravel())
    mujoco.mju_quat2Vel(velocity, quaternion, 1.0)
    return velocity
