"""From what a policy says (end-effector poses and gripper, or joint positions) to joint waypoints.

Declared by the robot's yaml under `command_map`. Poses are solved one row after the other, each from the
solution of the one before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from hardware.kinematics import Goal, Kinematics, Pose, approach, matrix
from hardware.spec import RobotSpec
from robopolicy.errors import ConfigError, SpecMismatch
from robopolicy.registry import parse
from robopolicy.spec import ActionPart, ActionSpec

__all__ = ["CommandMap", "CommandMapConfig", "Representation", "Waypoints"]

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
    lag_s: float = 0.0
    """How long after its time an action is reached where policies are trained, if that is later than on this
    robot: actions are sent so much later."""
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
        if not 0 <= self.lag_s < 1:
            raise ConfigError(f"command_map.lag_s must be in [0, 1), got {self.lag_s}.")
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
class _EndEffector:
    """What an action says about one end effector."""

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
        names = self.config.joints or spec.names
        self._moving = np.array([spec.index(name) for name in names])
        self._turn = matrix(np.array(self.config.turn), "quat_wxyz")
        self._origin = np.array(self.config.origin)
        self._ends: list[_EndEffector] = []
        self._gripper: slice | None = None
        self._joints: slice | None = None
        if self.config.representation == "joint_position":
            self._find_joints()
        else:
            config = self.config
            self._kinematics = Kinematics(
                spec,
                names,
                iterations=config.iterations,
                damping=config.damping,
                posture_gain=config.posture_gain,
                tolerance_m=config.tolerance_m,
                tolerance_rad=config.tolerance_rad,
            )
            self._find_ends()
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
            start = [self._kinematics.pose(end.site, q) for end in self._ends]
            ways = [
                [self._target(end, action, pose) for action in actions]
                for end, pose in zip(self._ends, start, strict=True)
            ]
            if self.config.stiffness:
                moving = [self._kinematics.velocity(end.site, q, dq) for end in self._ends]
                rate = float(np.sqrt(self.config.stiffness))
                ways = [
                    approach(pose, velocity, way, rate, dt_s)
                    for pose, velocity, way in zip(start, moving, ways, strict=True)
                ]
            sites = [end.site for end in self._ends]
            last = np.array(q, dtype=np.float64)
            for row in range(count):
                targets = [way[row] for way in ways]
                last, position_error[row], rotation_error[row] = self._kinematics.solve(last, sites, targets)
                joints[row] = last
        if self._gripper is not None and self.spec.gripper is not None:
            config, gripper = self.config, self.spec.gripper
            share = (actions[:, self._gripper] - config.gripper_closed) / (
                config.gripper_open - config.gripper_closed
            )
            opening = gripper.lower + np.clip(share, 0.0, 1.0) * (gripper.upper - gripper.lower)
            joints = np.concatenate([joints, opening], axis=1)
        return Waypoints(joints, position_error, rotation_error)

    def end_effector(self, q: np.ndarray, index: int = 0) -> Pose:
        """Position `[3]` and rotation `[3, 3]` of an end effector in the policy's frame.

        Raises:
            SpecMismatch: the map is one of joint positions.
        """
        if not self._ends:
            raise SpecMismatch("A map of joint positions knows no end effector.")
        position, rotation = self._kinematics.pose(self._ends[index].site, q)
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

    def _find_ends(self) -> None:
        sites = [name.strip() for name in self.config.end_effector.split(",") if name.strip()]
        pending = iter(sites)
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
                site = self._kinematics.site(name)
                if site < 0:
                    raise SpecMismatch(f"{self.spec.model} has no site {name!r}.")
                representation = turn[0].rotation if turn else None
                self._ends.append(_EndEffector(site, where, turn[1] if turn else None, representation or ""))
            elif part.kind != "rotation" or index == 0 or parts[index - 1][0].kind != "position":
                raise SpecMismatch(f"A map of poses cannot use the {part.kind} part of size {part.size}.")
        if not self._ends or next(pending, None) is not None:
            raise SpecMismatch(f"The action has {len(self._ends)} positions for the end effectors {sites}.")

    def _target(self, end: _EndEffector, action: np.ndarray, start: Pose) -> Goal:
        """Goal pose in the model's frame."""
        position = action[end.position]
        rotation = None if end.rotation is None else matrix(action[end.rotation], end.representation)
        if self.config.representation == "ee_pose_relative":
            origin, turn = start
        else:
            origin, turn = self._origin, self._turn
        return origin + turn @ position, None if rotation is None else turn @ rotation
