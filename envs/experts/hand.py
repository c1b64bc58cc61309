"""What a script sees and asks for: the gripper, the object, and one goal for every control step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mujoco
import numpy as np

from envs.robosuite_env import RobosuiteEnv

__all__ = [
    "CLOSED",
    "OPEN",
    "Goal",
    "Hand",
    "Pose",
    "Script",
    "finger_yaw",
    "nearest",
    "pointing_down",
    "rotation_vector",
]

OPEN, CLOSED = -1.0, 1.0


@dataclass(frozen=True, kw_only=True)
class Pose:
    """A position `[3]` in metres and a rotation `[3, 3]`, in the world."""

    position: np.ndarray
    rotation: np.ndarray

    def shifted(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Pose:
        """The same pose, moved in the world frame."""
        return Pose(position=self.position + np.array([x, y, z]), rotation=self.rotation)


@dataclass(frozen=True, kw_only=True)
class Goal:
    """Where the grip site should go during one step."""

    pose: Pose
    gripper: float
    speed: float
    """Largest commanded displacement, as a fraction of what an action can ask for."""
    careful: bool = False
    """Whether this is fine work, in which a person's hand shakes less."""


Script = Iterator[Goal]


class Hand:
    """Reads the simulation of one environment."""

    def __init__(self, env: RobosuiteEnv) -> None:
        self.env = env
        self._model, self._data = env.simulation

    @property
    def pose(self) -> Pose:
        """The grip site."""
        return Pose(position=self.env.arm.position.copy(), rotation=self.env.arm.rotation.copy())

    @property
    def object(self) -> Pose:
        """The task's object."""
        return self.body(self.env.object_body)

    def body(self, body: int | str) -> Pose:
        """Any body, by id or name."""
        found = self._data.body(body)
        return Pose(position=found.xpos.copy(), rotation=found.xmat.reshape(3, 3).copy())

    def holds(self) -> bool:
        """Whether the object touches both fingers."""
        touched = set()
        for contact in self._data.contact:
            one, two = (int(self._model.geom_bodyid[g]) for g in (contact.geom1, contact.geom2))
            other = two if one == self.env.object_body else one if two == self.env.object_body else None
            if other is not None:
                touched.add(self._model.body(other).name)
        return sum("finger" in name for name in touched) == 2

    def reach(
        self,
        pose: Callable[[], Pose],
        *,
        gripper: float,
        speed: float,
        near: float,
        aligned: float = 0.1,
        steps: int = 60,
        careful: bool = False,
        going: Callable[[], bool] = lambda: True,
    ) -> Script:
        """Go to a pose (read anew every step) until within `near` metres and `aligned` radians of it.

        Gives up after `steps` steps, or when `going` no longer holds.
        """
        for _ in range(steps):
            if not going():
                return
            target = pose()
            away, turn = self.error(target)
            if np.linalg.norm(away) < near and np.linalg.norm(turn) < aligned:
                return
            yield Goal(pose=target, gripper=gripper, speed=speed, careful=careful)

    def squeeze(self, gripper: float, steps: int) -> Script:
        """Stay, and open or close."""
        pose = self.pose
        for _ in range(steps):
            yield Goal(pose=pose, gripper=gripper, speed=0.3, careful=True)

    def grip(self) -> Script:
        """Close until the object is held firmly, or there is nothing between the fingers."""
        firm = 0
        for _ in range(14):
            yield from self.squeeze(CLOSED, 1)
            firm += self.holds()
            if firm == 4:  # the fingers' springs still wind up after the first touch
                return

    def carry(self, place: Callable[[], np.ndarray], yaw: Callable[[], float] | None = None) -> Pose:
        """Where the hand must be for the held object to be at a place `[3]`, turned by `yaw` from now."""
        turn = yaw() if yaw else 0.0
        here, thing = self.pose, self.object
        offset = np.append(_turned(here.position[:2] - thing.position[:2], turn), 0.0)
        offset[2] = here.position[2] - thing.position[2]
        return Pose(position=place() + offset, rotation=pointing_down(finger_yaw(here.rotation) + turn))

    def error(self, target: Pose) -> tuple[np.ndarray, np.ndarray]:
        """Translation `[3]` in metres and rotation vector `[3]` in radians from here to a pose."""
        here = self.pose
        return target.position - here.position, rotation_vector(target.rotation @ here.rotation.T)


def _turned(vector: np.ndarray, angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([cos * vector[0] - sin * vector[1], sin * vector[0] + cos * vector[1]])


def rotation_vector(matrix: np.ndarray) -> np.ndarray:
    """The axis-angle vector `[3]` of a rotation matrix, radians."""
    quaternion, vector = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(matrix).reshape(9))
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector


def pointing_down(yaw: float) -> np.ndarray:
    """A grip-site rotation that looks down, with the fingers opening along the horizontal angle `yaw`."""
    along = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    down = np.array([0.0, 0.0, -1.0])
    return np.stack([along, np.cross(down, along), down], axis=1)


def finger_yaw(rotation: np.ndarray) -> float:
    """The horizontal angle along which the fingers open, radians."""
    return float(np.arctan2(rotation[1, 0], rotation[0, 0]))


def nearest(angle: float, reference: float, period: float) -> float:
    """`angle` moved by whole periods to within half a period of `reference`."""
    return angle + period * round((reference - angle) / period)
