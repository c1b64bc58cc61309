"""Operational-space control of one arm, as robosuite defines it, without robosuite's per-step Python cost.

robosuite recomputes names, pseudo-inverses and three copies of every Jacobian 500 times a second, which
takes five times as long as the physics. This is the same law on the same MuJoCo quantities; a test holds
the two trajectories equal.
"""

from __future__ import annotations

from typing import Any, cast

import mujoco
import numpy as np
from scipy.linalg.lapack import dposv

from robopolicy.errors import RobopolicyError

_NULLSPACE_KP = 10.0  # robosuite's stiffness toward the initial joint posture
_NULLSPACE_KD = 2.0 * np.sqrt(_NULLSPACE_KP)


class OperationalSpaceController:
    """Torques that drive a robot's grip site to a goal pose.

    Args:
        robot: a robosuite fixed-base robot with one arm under OSC_POSE.
        model: its `mujoco.MjModel`.
        data: its `mujoco.MjData`.
    """

    def __init__(self, robot: Any, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        part = robot.part_controllers["right"]
        self.model, self.data = model, data
        self.absolute = part.input_type == "absolute"
        self.site = int(model.site(part.ref_name).id)
        self._base = int(model.site(f"{part.naming_prefix}{part.part_name}_center").id)
        self._qpos, self._qvel = _run(part.qpos_index), _run(part.qvel_index)
        self._kp, self._kd = np.array(part.kp), np.array(part.kd)
        self._scale = np.array(part.output_max)
        self._gripper = robot.gripper["right"]
        arm_actuators = robot._ref_actuators_indexes_dict["right"]
        finger_actuators = robot._ref_actuators_indexes_dict[robot.get_gripper_name("right")]
        self._arm_ctrl, self._finger_ctrl = _run(arm_actuators), _run(finger_actuators)
        self._low, self._high = model.actuator_ctrlrange[self._arm_ctrl].T.copy()
        finger_range = model.actuator_ctrlrange[self._finger_ctrl]
        self._finger_middle = finger_range.mean(axis=1)
        self._finger_half = 0.5 * (finger_range[:, 1] - finger_range[:, 0])
        jacobian, mass = np.zeros((6, model.nv)), np.zeros((model.nv, model.nv))
        self._jacobian_pos, self._jacobian_rot = jacobian[:3], jacobian[3:]
        self._full_mass, self._mass = mass, mass[self._qvel, self._qvel]
        self._jacobian = jacobian[:, self._qvel]
        self.begin()

    def begin(self) -> None:
        """Start an episode: the present joint posture is the one the null space returns to."""
        self._rest = self.data.qpos[self._qpos].copy()
        self._fingers = np.zeros(len(self._finger_half))
        self._goal_pos, self._goal_rot = np.zeros(3), np.eye(3)

    @property
    def memory(self) -> np.ndarray:
        """What the controller carries from one control step to the next."""
        return np.concatenate([self._rest, self._fingers])

    @memory.setter
    def memory(self, value: np.ndarray) -> None:
        self._rest = np.array(value[: len(self._rest)])
        self._fingers = np.array(value[len(self._rest) :])

    @property
    def position(self) -> np.ndarray:
        """Where the grip site is, in the world frame `[3]`, metres."""
        return cast(np.ndarray, self.data.site_xpos[self.site])

    @property
    def rotation(self) -> np.ndarray:
        """The grip site's orientation in the world frame `[3, 3]`."""
        return cast(np.ndarray, self.data.site_xmat[self.site]).reshape(3, 3)

    def set_goal(self, action: np.ndarray) -> None:
        """Take a new action: 6 arm dimensions, then the gripper's; site poses must be up to date."""
        arm = action[:6]
        if self.absolute:
            self._goal_pos = arm[:3].copy()
            self._goal_rot = rotation_matrix(arm[3:])
        else:
            base = np.asarray(self.data.site_xmat[self._base]).reshape(3, 3)
            delta = np.clip(arm, -1.0, 1.0) * self._scale
            self._goal_pos = self.position + base @ delta[:3]
            self._goal_rot = base @ rotation_matrix(delta[3:]) @ base.T @ self.rotation
        self._gripper.current_action = self._fingers
        self._fingers = np.array(self._gripper.format_action(action[6:]))

    def apply(self) -> None:
        """Write this physics step's controls; between `mj_step1` and `mj_step2`."""
        model, data = self.model, self.data
        mujoco.mj_jacSite(model, data, self._jacobian_pos, self._jacobian_rot, self.site)
        mujoco.mj_fullM(model, self._full_mass, data.qM)
        jacobian, mass, velocity = self._jacobian, self._mass, data.qvel[self._qvel]

        wanted = np.empty(6)
        wanted[:3] = self._goal_pos - data.site_xpos[self.site]
        turn = self._goal_rot @ self.rotation.T
        wanted[3] = 0.5 * (turn[2, 1] - turn[1, 2])
        wanted[4] = 0.5 * (turn[0, 2] - turn[2, 0])
        wanted[5] = 0.5 * (turn[1, 0] - turn[0, 1])
        wanted *= self._kp
        wanted -= self._kd * (jacobian @ velocity)

        inertia = jacobian @ _solve(mass, jacobian.T)
        posture = _NULLSPACE_KP * (self._rest - data.qpos[self._qpos]) - _NULLSPACE_KD * velocity
        wrench = -_solve(inertia, jacobian @ posture)
        wrench[:3] += _solve(inertia[:3, :3], wanted[:3])
        wrench[3:] += _solve(inertia[3:, 3:], wanted[3:])
        torque = jacobian.T @ wrench + mass @ posture + data.qfrc_bias[self._qvel]
        data.ctrl[self._arm_ctrl] = np.minimum(np.maximum(torque, self._low), self._high)
        data.ctrl[self._finger_ctrl] = self._finger_middle + self._finger_half * self._fingers


def _run(indices: Any) -> slice:
    """Consecutive indices as a slice, which reads without copying."""
    first, last = int(indices[0]), int(indices[-1])
    if list(indices) != list(range(first, last + 1)):
        raise RobopolicyError(f"The arm's joints must be consecutive in the model, got {list(indices)}.")
    return slice(first, last + 1)


def rotation_matrix(axis_angle: np.ndarray) -> np.ndarray:
    """The rotation matrix `[3, 3]` of an axis-angle vector `[3]`, radians."""
    angle = float(np.linalg.norm(axis_angle))
    quaternion, matrix = np.empty(4), np.empty(9)
    mujoco.mju_axisAngle2Quat(quaternion, axis_angle / angle if angle > 1e-12 else np.eye(3)[0], angle)
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix.reshape(3, 3)


def _solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """x in ``matrix @ x = right`` for a positive definite matrix; the least-norm x near a singularity."""
    _, solution, failed = dposv(matrix, right)
    if not failed:
        return cast(np.ndarray, solution)
    if not np.isfinite(matrix).all():
        raise RobopolicyError("The simulation diverged: the arm's inertia is not finite.")
    return np.asarray(np.linalg.pinv(matrix) @ right)
