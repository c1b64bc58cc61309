"""A control step of a robosuite task: compiled, or robosuite's own."""

from __future__ import annotations

from typing import Any, Protocol, cast

import mujoco
import numpy as np
import robosuite.macros as macros
import robosuite.utils.transform_utils as transforms
from robosuite.controllers.composite.composite_controller import CompositeController
from robosuite.controllers.parts.arm import OperationalSpaceController
from robosuite.controllers.parts.gripper import SimpleGripController
from robosuite.robots import FixedBaseRobot
from scipy.spatial.transform import Rotation

from envs.native import disable_flags
from envs.opspace import gives_robosuites_bits, work_space
from envs.osc import control_step
from robopolicy.errors import RobopolicyError

__all__ = ["SAVINGS", "Control", "FastControl", "GripSite", "StockControl", "not_covered"]

SAVINGS = ("matrices", "sensors", "marks")
"""What a compiled step saves beside Python: what surrounds LAPACK's routines; sensors in all physics steps
but the last; and marks of the bounding volumes that were looked at, which are only ever drawn."""


class Control(Protocol):
    """Takes control steps, and knows what they remember from one another."""

    memory: np.ndarray
    """Float64 `[R]`: initial joint postures; gripper commands, which move at a limited speed; and, between a
    reset and the first step, the arms' inertias with the grippers not yet in place, which robosuite's
    controllers use for the first physics step (else 0)."""

    def begin(self, *, reset: bool) -> None:
        """Start an episode at the present joint posture, which is the one the null space returns to.

        Args:
            reset: whether robosuite's own `reset` came just before.
        """

    def step(self, action: np.ndarray) -> None:
        """Hold an action `[Da]` for a control step."""


class GripSite:
    """Where one arm's grip site is."""

    def __init__(self, robot: Any, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self.site = int(robot.eef_site_id["right"])
        self._body, self._turned = int(model.site_bodyid[self.site]), model.site_quat[self.site]
        self._data = data

    @property
    def position(self) -> np.ndarray:
        """In the world frame `[3]`, metres."""
        return cast(np.ndarray, self._data.site_xpos[self.site])

    @property
    def rotation(self) -> np.ndarray:
        """In the world frame `[3, 3]`."""
        return cast(np.ndarray, self._data.site_xmat[self.site]).reshape(3, 3)

    @property
    def quaternion(self) -> np.ndarray:
        """In the world frame, w first `[4]`."""
        # A product of quaternions, because one read from the rotation matrix would change sign at random.
        quaternion = np.empty(4)
        mujoco.mju_mulQuat(quaternion, self._data.xquat[self._body], self._turned)
        return quaternion


class FastControl:
    """`envs.osc.control_step` for every arm of a robosuite task that `not_covered` has nothing against.

    Kinematics must be up to date before a step, since goals of delta actions start from the present pose.
    """

    def __init__(self, suite: Any, substeps: int) -> None:
        model, data = suite.sim.model._model, suite.sim.data._data
        self.data, self._robots = data, suite.robots
        arms = [robot.part_controllers["right"] for robot in suite.robots]
        self._arms = [_Arm(robot, model, data) for robot in suite.robots]
        joints = np.array([part.qpos_index for part in arms])
        self._joints = joints
        actuators = np.array([robot._ref_actuators_indexes_dict["right"] for robot in suite.robots])
        self.rest, self._first_mass = np.zeros(joints.shape), np.zeros((*joints.shape, joints.shape[1]))
        self._goal_position, self._goal_rotation = np.zeros((len(arms), 3)), np.zeros((len(arms), 3, 3))
        self._disabled = disable_flags(model)
        self._model = model
        self._fixed: tuple[Any, ...] = (
            model._address,
            data._address,
            substeps,
            data.qpos,
            data.qvel,
            data.ctrl,
            data.qfrc_bias,
            data.site_xpos,
            data.site_xmat,
            data.qM,
            np.array([arm.grip.site for arm in self._arms]),
            joints,
            np.array([part.qvel_index for part in arms]),
            actuators,
            np.ascontiguousarray(model.actuator_ctrlrange[actuators]),
            np.array([(part.kp, part.kd) for part in arms]),
            self.rest,
            self._goal_position,
            self._goal_rotation,
            self._first_mass,
        )
        self._own_matrices, self._space = gives_robosuites_bits(joints.shape[1]), work_space()
        self.leave_out()
        self.begin(reset=True)

    def leave_out(self, *savings: str) -> None:
        """Do without some of `SAVINGS` from now on, to measure what they bring; the state is the same."""
        disabled = np.zeros(1, np.intc) if "sensors" in savings else self._disabled
        own = self._own_matrices and "matrices" not in savings
        self._model.vis.global_.bvactive = int("marks" in savings)
        self._arguments = (*self._fixed, disabled, own, *self._space)

    def begin(self, *, reset: bool) -> None:
        """Start an episode."""
        self.rest[:] = self.data.qpos[self._joints]
        for arm in self._arms:
            arm.fingers = np.zeros_like(arm.fingers)
        self._first_mass[:] = 0.0
        if reset:
            parts = [robot.part_controllers["right"] for robot in self._robots]
            self._first_mass[:] = [part.mass_matrix for part in parts]

    @property
    def memory(self) -> np.ndarray:
        """See `Control`."""
        fingers = [arm.fingers for arm in self._arms]
        return np.concatenate([self.rest.ravel(), *fingers, self._first_mass.ravel()])

    @memory.setter
    def memory(self, value: np.ndarray) -> None:
        rest, fingers, mass = np.split(value, [self.rest.size, len(value) - self._first_mass.size])
        self.rest[:] = rest.reshape(self.rest.shape)
        self._first_mass[:] = mass.reshape(self._first_mass.shape)
        for arm, command in zip(self._arms, np.split(fingers, len(self._arms)), strict=True):
            arm.fingers = command.copy()

    def step(self, action: np.ndarray) -> None:
        """Hold an action for a control step.

        Raises:
            RobopolicyError: the simulation diverged.
        """
        for i, (arm, part) in enumerate(zip(self._arms, action.reshape(len(self._arms), -1), strict=True)):
            self._goal_position[i], self._goal_rotation[i] = arm.goal(part[:6])
            arm.grip_with(part[6:])
        flags = int(self._disabled[0])
        try:
            control_step(*self._arguments)
        except np.linalg.LinAlgError as error:
            self._disabled[0] = flags
            raise RobopolicyError("The simulation diverged: an arm's inertia is not finite.") from error
        self._first_mass[:] = 0.0


class _Arm:
    """What changes once a control step: the goal, and the gripper's command."""

    def __init__(self, robot: Any, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        part, self._gripper = robot.part_controllers["right"], robot.gripper["right"]
        self.grip = GripSite(robot, model, data)
        self._absolute = part.input_type == "absolute"
        self._scale = abs(part.output_max - part.output_min) / abs(part.input_max - part.input_min)
        self._offset = (part.output_max + part.output_min) / 2.0
        base = _base_site(part, model)
        world = part.input_ref_frame == "world"
        self._origin = np.zeros(3) if world else data.site_xpos[base].copy()
        self._frame = np.eye(3) if world else data.site_xmat[base].reshape(3, 3).copy()
        self._to_base = transforms.pose_inv(transforms.make_pose(self._origin, self._frame))
        self._pose = np.eye(4)
        self._position, self._rotation = self.grip.position, self.grip.rotation  # views
        self._data, self._ctrl = data, robot._ref_actuators_indexes_dict[robot.get_gripper_name("right")]
        low, high = model.actuator_ctrlrange[self._ctrl].T
        self._middle, self._half = 0.5 * (high + low), 0.5 * (high - low)
        self.fingers = np.zeros(len(self._half))

    def goal(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position `[3]` and rotation `[3, 3]` in the world that an arm action `[6]` asks for."""
        frame = self._frame
        if self._absolute:
            goal, turn = action[:3], Rotation.from_rotvec(action[3:]).as_matrix()
        else:
            delta = np.minimum(np.maximum(action, -1.0), 1.0) * self._scale + self._offset
            self._pose[:3, :3], self._pose[:3, 3] = self._rotation, self._position
            pose = np.dot(self._to_base, self._pose)
            goal = pose[:3, 3] + delta[:3]
            # robosuite rounds rotations to float32 here, and thereby moves joints by 1e-8
            turn = np.dot(transforms.quat2mat(transforms.axisangle2quat(delta[3:])), pose[:3, :3])
        return self._origin + np.dot(frame, goal), np.dot(frame, turn)

    def grip_with(self, action: np.ndarray) -> None:
        """Move the gripper's command by an action, and write its controls."""
        self._gripper.current_action = self.fingers
        self.fingers = np.array(self._gripper.format_action(action))
        self._data.ctrl[self._ctrl] = self._middle + self._half * self.fingers


class StockControl:
    """robosuite's own `step`."""

    def __init__(self, suite: Any) -> None:
        self.suite = suite

    def begin(self, *, reset: bool) -> None:
        """Start an episode."""
        for robot in self.suite.robots:
            part = robot.part_controllers["right"]
            part.initial_joint, part.new_update = self.suite.sim.data.qpos[part.qpos_index].copy(), not reset
            robot.gripper["right"].current_action = self._fingers(robot) * 0.0

    @property
    def memory(self) -> np.ndarray:
        """See `Control`."""
        robots = self.suite.robots
        parts = [robot.part_controllers["right"] for robot in robots]
        masses = [part.mass_matrix.ravel() * (not part.new_update) for part in parts]
        fingers = [self._fingers(robot) for robot in robots]
        return np.concatenate([*(part.initial_joint for part in parts), *fingers, *masses])

    @memory.setter
    def memory(self, value: np.ndarray) -> None:
        model, data, robots = self.suite.sim.model._model, self.suite.sim.data._data, self.suite.robots
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        joints = robots[0].part_controllers["right"].joint_dim
        ends = np.cumsum([joints * len(robots), len(value) - joints * (joints + 1) * len(robots)])
        rests, fingers, masses = (part.reshape(len(robots), -1) for part in np.split(value, ends))
        for robot, rest, command, mass in zip(robots, rests, fingers, masses, strict=True):
            part = robot.part_controllers["right"]
            robot.gripper["right"].current_action = command.copy()
            part.initial_joint, part.new_update = rest.copy(), True
            if mass.any():
                part.update()
                part.mass_matrix = np.asfortranarray(mass.reshape(joints, joints))

    def step(self, action: np.ndarray) -> None:
        """Hold an action for a control step."""
        self.suite.step(action)

    @staticmethod
    def _fingers(robot: Any) -> np.ndarray:
        gripper = robot.gripper["right"]  # its command is one number after a reset
        return np.broadcast_to(gripper.current_action, len(gripper.actuators))


def not_covered(suite: Any) -> str | None:
    """Why `FastControl` cannot stand in for a task's own controllers, or None if it can."""
    model = suite.sim.model._model
    if not (suite.lite_physics and macros.ENABLE_NUMBA):
        return "robosuite's lite_physics or ENABLE_NUMBA is off"
    if len({robot.part_controllers["right"].joint_dim for robot in suite.robots}) > 1:
        return "its arms differ in their number of joints"
    for robot in suite.robots:
        kind = type(robot.composite_controller)
        alone = list(robot.arms) == ["right"]
        if type(robot) is not FixedBaseRobot or kind is not CompositeController or not alone:
            return f"{type(robot).__name__} under {kind.__name__} is not a single arm on a fixed base"
        part, grip = robot.part_controllers["right"], robot.part_controllers[robot.get_gripper_name("right")]
        if type(part) is not OperationalSpaceController or part.impedance_mode != "fixed" or not part.use_ori:
            return f"its arm runs {part.name} with {part.impedance_mode} impedance instead of fixed OSC_POSE"
        if part.interpolator_pos is not None or part.interpolator_ori is not None or not part.uncoupling:
            return "its arm interpolates goals, or couples position and rotation"
        if not (np.all(part.input_max == 1.0) and np.all(part.input_min == -1.0)):
            return "its actions are not bounded by -1 and 1"
        if type(grip) is not SimpleGripController or not grip.use_action_scaling or grip.interpolator:
            return f"its gripper runs {type(grip).__name__}"
        if model.body_weldid[model.site_bodyid[_base_site(part, model)]] != 0:
            return "its base moves"
    return None


def _base_site(part: Any, model: mujoco.MjModel) -> int:
    return int(model.site(f"{part.naming_prefix}{part.part_name}_center").id)
