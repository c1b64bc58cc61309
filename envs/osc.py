"""Operational-space control of robot arms, as robosuite defines it, compiled together with the physics loop.

Khatib, "A unified approach for motion and force control of robot manipulators: the operational space
formulation", IEEE Journal on Robotics and Automation 3(1), 1987. With the joint-space inertia M, the Jacobian
J of the grip site and the acceleration a = kp * error - kd * velocity wanted there, robosuite's variant is

    torque = J' [Lambda_p a_p, Lambda_r a_r] + N' M q + bias      position and rotation uncoupled
    Lambda = (J M^-1 J')^-1                                       its inertia felt at the grip site
    N'     = I - J' Lambda J M^-1                                 what leaves the grip site's motion alone

where Lambda_p and Lambda_r come from J's three rows of position and of rotation alone, and
q = 10 (rest - joints) - 2 sqrt(10) joint velocity pulls towards the initial posture.

Matrices and what surrounds them keep robosuite's order of operations (`envs.opspace`), so that torques agree
to the last bit: where an object lies flat on another, MuJoCo's contact points, and with them its velocity by
centimetres a second, turn on that bit.
"""

from __future__ import annotations

import mujoco
import numpy as np
from numba import njit
from robosuite.utils.control_utils import nullspace_torques, opspace_matrices, orientation_error

from envs.native import mj_full_mass, mj_site_jacobian, mj_step1, mj_step2
from envs.opspace import operational_space

__all__ = ["control_step", "rotation_matrix"]

_NO_SENSORS = int(mujoco.mjtDisableBit.mjDSBL_SENSOR)


@njit(cache=True, nogil=True)
def control_step(
    model: int,
    data: int,
    substeps: int,
    qpos: np.ndarray,
    qvel: np.ndarray,
    ctrl: np.ndarray,
    bias: np.ndarray,
    site_xpos: np.ndarray,
    site_xmat: np.ndarray,
    inertia: np.ndarray,
    sites: np.ndarray,
    joints: np.ndarray,
    dofs: np.ndarray,
    actuators: np.ndarray,
    limits: np.ndarray,
    gains: np.ndarray,
    rest: np.ndarray,
    goal_position: np.ndarray,
    goal_rotation: np.ndarray,
    first_mass: np.ndarray,
    disabled: np.ndarray,
    own_matrices: bool,
    space: np.ndarray,
    numbers: np.ndarray,
    letters: np.ndarray,
) -> None:
    """Physics steps of one control step, with A arms of n joints each driven towards their goals.

    Args:
        model, data: addresses of MuJoCo's structures; the next seven arrays are views of their fields.
        sites: `[A]`; joints, dofs and actuators `[A, n]` are indices into `qpos`, `qvel` and `ctrl`.
        limits: of the torques `[A, n, 2]`.
        gains: kp and kd `[A, 2, 6]`.
        rest: joint posture that the null space returns to `[A, n]`.
        goal_position, goal_rotation: of the grip sites in the world, `[A, 3]` and `[A, 3, 3]`.
        first_mass: inertias `[A, n, n]` for the first physics step, where they are not 0.
        disabled: the model's disable flags `[1]`. Sensors are off until the last physics step, after which
            they hold what they would have held; motion does not depend on them.
        own_matrices: whether `envs.opspace` gives robosuite's bits here.
        space, numbers, letters: its `work_space`.
    """
    arms, n = joints.shape
    nv = len(qvel)
    full_mass, mass = np.empty((nv, nv)), np.empty((n, n)).T  # by columns, as robosuite's is
    full_position, full_rotation = np.empty((3, nv)), np.empty((3, nv))
    jacobian, by_position, by_rotation = np.empty((6, n)), np.empty((3, n)), np.empty((3, n))
    wrench = np.empty(6)
    position, velocity, compensation = np.empty(n), np.empty(n), np.empty(n)
    flags = disabled[0]
    disabled[0] = flags | _NO_SENSORS
    for substep in range(substeps):
        if substep == substeps - 1:
            disabled[0] = flags
        mj_step1(model, data)
        mj_full_mass(model, full_mass.ctypes.data, inertia.ctypes.data)
        for arm in range(arms):
            site = sites[arm]
            mj_site_jacobian(model, data, full_position.ctypes.data, full_rotation.ctypes.data, site)
            for i in range(n):
                dof = dofs[arm, i]
                position[i], velocity[i], compensation[i] = qpos[joints[arm, i]], qvel[dof], bias[dof]
                for j in range(3):
                    jacobian[j, i] = by_position[j, i] = full_position[j, dof]
                    jacobian[3 + j, i] = by_rotation[j, i] = full_rotation[j, dof]
                for j in range(n):
                    mass[i, j] = full_mass[dof, dofs[arm, j]]
            if substep == 0 and first_mass[arm, 0, 0] > 0.0:
                mass[:] = first_mass[arm]

            kp, kd = gains[arm, 0], gains[arm, 1]
            rotation = site_xmat[site].reshape(3, 3)
            away = goal_position[arm] - site_xpos[site]
            turn = orientation_error(goal_rotation[arm], rotation)
            push = away * kp[:3] + -np.dot(full_position, qvel) * kd[:3]
            twist = turn * kp[3:] + -np.dot(full_rotation, qvel) * kd[3:]

            if own_matrices:
                matrices = operational_space(mass, jacobian, space, numbers, letters)
            else:
                matrices = opspace_matrices(mass, jacobian, by_position, by_rotation)
            _, at_position, at_rotation, null = matrices
            wrench[:3], wrench[3:] = np.dot(at_position, push), np.dot(at_rotation, twist)
            torque = np.dot(jacobian.T, wrench) + compensation
            torque += nullspace_torques(mass, null, rest[arm], position, velocity, 10)
            for i in range(n):
                ctrl[actuators[arm, i]] = min(max(torque[i], limits[arm, i, 0]), limits[arm, i, 1])
        mj_step2(model, data)


def rotation_matrix(axis_angle: np.ndarray) -> np.ndarray:
    """The rotation matrix `[3, 3]` of an axis-angle vector `[3]`, radians."""
    angle = float(np.linalg.norm(axis_angle))
    quaternion, matrix = np.empty(4), np.empty(9)
    mujoco.mju_axisAngle2Quat(quaternion, axis_angle / angle if angle > 1e-12 else np.eye(3)[0], angle)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)
