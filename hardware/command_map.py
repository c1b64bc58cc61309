"""From what a policy says (end-effector poses and gripper, or joint positions) to joint waypoints.

Declared by the robot's yaml under `command_map`. Poses are solved one row after the other, each from the
solution of the one before, by damped least squares within the joint limits; spare joints are drawn to the
home posture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import mujoco
import numpy as np

from hardware.collision import Shadow
from hardware.spec import RobotSpec
from robopolicy.errors import ConfigError, SpecMismatch
from robopolicy.registry import parse
from robopolicy.spec import ActionPart, ActionSpec

Pose = tuple[np.ndarray, np.ndarray]
_SUBSTEPS = 10
Representation = Literal["ee_pose", "ee_pose_relative", "joint_position"]


@dataclass(frozen=True, kw_only=True)
class CommandMapConfig:
    """How a robot takes a policy's actions."""

    representation: Representation = "joint_position"
    """ee_pose: poses in the policy's frame. ee_pose_relative: seen from the measured pose of the chunk's
    observation. joint_position: radians, in the order of the spec."""
    end_effector: str = ""
    """Site that the poses are of; several are separated by commas, in the order of the action's parts."""
    joints: tuple[str, ...] = ()
    """Joints that may move; all if empty."""
    origin: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Where the policy's frame is in the world frame of the robot's model, metres."""
    turn: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0)
    """Orientation of the policy's frame there, quaternion wxyz."""
    stiffness: float = 0.0
    """1/s^2. Poses are set points of a critically damped controller of this stiffness, held for a policy step
    each, and what is sent is the way that it takes: for policies that were trained with such a controller, on
    robots that follow at once. 0: poses are reached at their times."""
    gripper_open: float = -1.0
    gripper_closed: float = 1.0
    """Values of the gripper action."""
    iterations: int = 50
    damping: float = 0.02
    posture_gain: float = 0.02
    """Share of the way to the home posture that spare joints go in an iteration."""
    tolerance_m: float = 1e-4
    tolerance_rad: float = 1e-3

    def __post_init__(self) -> None:
        if len(self.origin) != 3 or len(self.turn) != 4:
            raise ConfigError("command_map.origin has 3 numbers and turn 4 (a quaternion wxyz).")
        if not self.iterations > 0 or not self.damping > 0:
            raise ConfigError("command_map.iterations and damping must be positive.")
        if not 0 <= self.stiffness < 1e4:
            raise ConfigError(f"command_map.stiffness must be in [0, 10000), got {self.stiffness}.")
        if self.stiffness and self.representation == "joint_position":
            raise ConfigError("command_map.stiffness is for poses.")
        if self.gripper_open == self.gripper_closed:
            raise ConfigError("command_map.gripper_open and gripper_closed must differ.")


@dataclass(frozen=True, slots=True)
class Waypoints:
    """Joint waypoints of a chunk."""

    rows: np.ndarray
    """Joint positions and, with a gripper, its opening last `[T, n (+ 1)]`."""
    position_error: np.ndarray
    """Metres between asked and reached position, the worst end effector's `[T]`."""
    rotation_error: np.ndarray
    """Radians, likewise `[T]`."""


@dataclass(frozen=True, slots=True)
class _Goal:
    site: int
    position: slice
    rotation: slice | None
    representation: str


class CommandMap:
    """Maps decoded action chunks of one policy to joint waypoints of one robot.

    Raises:
        SpecMismatch: the action does not say what the map needs; names the part.
    """

    def __init__(self, spec: RobotSpec, action: ActionSpec) -> None:
        self.spec, self.action = spec, action
        self.config = parse(CommandMapConfig, dict(spec.command_map), f"robot={spec.name}: command_map")
        self._lower = spec.array("lower") + spec.guard.position_margin
        self._upper = spec.array("upper") - spec.guard.position_margin
        self._home = spec.array("home")
        names = self.config.joints or spec.names
        self._moving = np.array([spec.index(name) for name in names])
        self._turn = _matrix(np.array(self.config.turn), "quat_wxyz")
        self._origin = np.array(self.config.origin)
        self._goals: list[_Goal] = []
        self._gripper: slice | None = None
        self._joints: slice | None = None
        if self.config.representation == "joint_position":
            self._find_joints()
        else:
            self._shadow = Shadow(spec)
            model = self._shadow.model
            self._dof = np.array([int(model.joint(spec.names[i]).dofadr[0]) for i in self._moving])
            self._jacobian = np.zeros((6, model.nv))
            self._find_goals()
        if spec.gripper and self._gripper is None:
            raise SpecMismatch(f"{spec.name} has a gripper; the action has no gripper part.")

    def waypoints(
        self, actions: np.ndarray, q: np.ndarray, *, dq: np.ndarray | None = None, dt_s: float = 0.05
    ) -> Waypoints:
        """Joint waypoints of a decoded chunk.

        Args:
            actions: `[T, Da]`, in the policy's units.
            q: measured joint positions `[n]` at the chunk's observation.
            dq: and velocities, where the map has a stiffness; 0 by default.
            dt_s: a policy step.

        Raises:
            SpecMismatch: another number of action dimensions.
        """
        actions = np.asarray(actions, dtype=np.float64)
        if actions.ndim != 2 or actions.shape[1] != self.action.size:
            raise SpecMismatch(f"Actions are [T, {self.action.size}], got {list(actions.shape)}.")
        count = len(actions)
        position_error, rotation_error = np.zeros(count), np.zeros(count)
        joints = np.repeat(np.asarray(q, dtype=np.float64)[None], count, axis=0)
        if self._joints is not None:
            joints[:, self._moving] = actions[:, self._joints]
        else:
            start = [self._pose(goal.site, q) for goal in self._goals]
            ways = [
                [self._target(goal, action, pose) for action in actions]
                for goal, pose in zip(self._goals, start, strict=True)
            ]
            if self.config.stiffness:
                moving = [self._velocity(goal.site, q, dq) for goal in self._goals]
                rate = float(np.sqrt(self.config.stiffness))
                ways = [
                    approach(pose, velocity, way, rate, dt_s)
                    for pose, velocity, way in zip(start, moving, ways, strict=True)
                ]
            last = np.array(q, dtype=np.float64)
            for row in range(count):
                targets = [way[row] for way in ways]
                last, position_error[row], rotation_error[row] = self._solve(last, targets)
                joints[row] = last
        if self._gripper is not None and self.spec.gripper is not None:
            config, gripper = self.config, self.spec.gripper
            share = (actions[:, self._gripper] - config.gripper_closed) / (
                config.gripper_open - config.gripper_closed
            )
            opening = gripper.lower + np.clip(share, 0.0, 1.0) * (gripper.upper - gripper.lower)
            joints = np.concatenate([joints, opening], axis=1)
        return Waypoints(joints, position_error, rotation_error)

    def end_effector(self, q: np.ndarray, index: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Position `[3]` and rotation `[3, 3]` of an end effector in the policy's frame.

        Raises:
            SpecMismatch: the map is one of joint positions.
        """
        if not self._goals:
            raise SpecMismatch("A map of joint positions knows no end effector.")
        position, rotation = self._pose(self._goals[index].site, q)
        return self._turn.T @ (position - self._origin), self._turn.T @ rotation

    def _find_joints(self) -> None:
        for part, where in self.action.slices():
            if part.kind == "joint" and self._joints is None:
                self._joints = where
            elif part.kind == "gripper" and self._gripper is None:
                self._gripper = where
            else:
                raise SpecMismatch(f"A map of joint positions has no use for another {part.kind} part.")
        size = 0 if self._joints is None else self._joints.stop - self._joints.start
        if size != len(self._moving):
            raise SpecMismatch(f"The action has {size} joints, the map moves {len(self._moving)}.")

    def _find_goals(self) -> None:
        sites = [name.strip() for name in self.config.end_effector.split(",") if name.strip()]
        model, pending = self._shadow.model, iter(sites)
        parts: list[tuple[ActionPart, slice]] = self.action.slices()
        for index, (part, where) in enumerate(parts):
            if part.kind == "gripper" and self._gripper is None:
                self._gripper = where
            elif part.kind == "position" and part.size == 3:
                following = parts[index + 1] if index + 1 < len(parts) else None
                turn = following if following and following[0].kind == "rotation" else None
                name = next(pending, None)
                if name is None:
                    raise SpecMismatch(f"The action has more positions than end effectors ({sites}).")
                site = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, name)
                if site < 0:
                    raise SpecMismatch(f"{self.spec.model} has no site {name!r}.")
                representation = turn[0].rotation if turn else None
                self._goals.append(_Goal(site, where, turn[1] if turn else None, representation or ""))
            elif part.kind != "rotation" or index == 0 or parts[index - 1][0].kind != "position":
                raise SpecMismatch(f"A map of poses cannot use the {part.kind} part of size {part.size}.")
        if not self._goals or next(pending, None) is not None:
            raise SpecMismatch(f"The action has {len(self._goals)} positions for the end effectors {sites}.")

    def _pose(self, site: int, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._shadow.place(q)
        data = self._shadow.data
        return data.site_xpos[site].copy(), data.site_xmat[site].reshape(3, 3).copy()

    def _velocity(self, site: int, q: np.ndarray, dq: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Linear and angular velocity of a site in the model's frame."""
        if dq is None:
            return np.zeros(3), np.zeros(3)
        shadow = self._shadow
        shadow.place(q)
        mujoco.mj_comPos(shadow.model, shadow.data)
        mujoco.mj_jacSite(shadow.model, shadow.data, self._jacobian[:3], self._jacobian[3:], site)
        both = self._jacobian[:, self._dof] @ dq[self._moving]
        return both[:3], both[3:]

    def _target(
        self, goal: _Goal, action: np.ndarray, start: tuple[np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Goal pose in the model's frame."""
        position = action[goal.position]
        rotation = None if goal.rotation is None else _matrix(action[goal.rotation], goal.representation)
        if self.config.representation == "ee_pose_relative":
            origin, turn = start
        else:
            origin, turn = self._origin, self._turn
        return origin + turn @ position, None if rotation is None else turn @ rotation

    def _solve(
        self, q: np.ndarray, targets: list[tuple[np.ndarray, np.ndarray | None]]
    ) -> tuple[np.ndarray, float, float]:
        config, moving = self.config, self._moving
        q = np.clip(q, np.minimum(self._lower, q), np.maximum(self._upper, q))
        for _ in range(config.iterations):
            error, jacobian, far, turned = self._errors(q, targets)
            if far < config.tolerance_m and turned < config.tolerance_rad:
                break
            free = np.ones(len(moving), dtype=bool)
            step = np.zeros(len(moving))
            for _ in range(2):  # once more without the joints that are at a limit and would pass it
                used = jacobian * free
                gram = used @ used.T + config.damping**2 * np.eye(len(error))
                mujoco.mju_cholFactor(gram, 0.0)  # BLAS would start threads for it
                step = used.T @ _solved(gram, error)
                drawn = config.posture_gain * (self._home[moving] - q[moving]) * free
                step += drawn - used.T @ _solved(gram, used @ drawn)
                wanted = q[moving] + step
                stuck = (wanted < self._lower[moving]) | (wanted > self._upper[moving])
                if not stuck.any():
                    break
                free &= ~stuck
            step *= min(1.0, 0.3 / max(float(np.abs(step).max()), 1e-12))
            wanted = np.clip(q[moving] + step, self._lower[moving], self._upper[moving])
            q = q.copy()
            q[moving] = wanted
        _, _, far, turned = self._errors(q, targets)
        return q, far, turned

    def _errors(
        self, q: np.ndarray, targets: list[tuple[np.ndarray, np.ndarray | None]]
    ) -> tuple[np.ndarray, np.ndarray, float, float]:
        """Stacked errors, their Jacobian, and the worst distance and angle."""
        shadow = self._shadow
        shadow.place(q)
        mujoco.mj_comPos(shadow.model, shadow.data)
        errors, rows, far, turned = [], [], 0.0, 0.0
        for goal, (position, rotation) in zip(self._goals, targets, strict=True):
            mujoco.mj_jacSite(shadow.model, shadow.data, self._jacobian[:3], self._jacobian[3:], goal.site)
            away = position - shadow.data.site_xpos[goal.site]
            errors.append(away)
            rows.append(self._jacobian[:3, self._dof].copy())
            far = max(far, float(np.linalg.norm(away)))
            if rotation is not None:
                turn = _axis_angle(rotation @ shadow.data.site_xmat[goal.site].reshape(3, 3).T)
                errors.append(turn)
                rows.append(self._jacobian[3:, self._dof].copy())
                turned = max(turned, float(np.linalg.norm(turn)))
        return np.concatenate(errors), np.concatenate(rows), far, turned


def approach(
    start: Pose,
    velocity: tuple[np.ndarray, np.ndarray],
    targets: Sequence[tuple[np.ndarray, np.ndarray | None]],
    rate: float,
    dt_s: float,
) -> list[tuple[np.ndarray, np.ndarray | None]]:
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
                away = _axis_angle(turned @ rotation.T)
                angular = angular + step * (rate * rate * away - 2 * rate * angular)
                rotation = _matrix(step * angular, "axis_angle") @ rotation
    return found


def _solved(factor: np.ndarray, right: np.ndarray) -> np.ndarray:
    result = np.empty(len(right))
    mujoco.mju_cholSolve(result, factor, right)
    return result


def _matrix(value: np.ndarray, representation: str) -> np.ndarray:
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


def _axis_angle(matrix: np.ndarray) -> np.ndarray:
    quaternion, velocity = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quaternion, matrix.ravel())
    mujoco.mju_quat2Vel(velocity, quaternion, 1.0)
    return velocity
