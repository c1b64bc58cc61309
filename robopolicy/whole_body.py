"""What a whole body is asked to do: any of several goals at once, and which of them are given.

One command serves policies that walk, reach and carry. Goals that are not given are zeros beside a mask that
says so, and leaving given goals out in training teaches one policy every combination, as ULTRA does with the
Unitree G1.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from robopolicy.errors import ConfigError, SpecMismatch, unknown
from robopolicy.spec import ObservationSpec

__all__ = ["GOALS", "CommandLayout", "WholeBodyCommand"]

GOALS = ("root_velocity", "left_hand", "right_hand", "object_goal", "reference")
"""In the order of the encoded vector and of its mask."""
_POSES = ("left_hand", "right_hand", "object_goal")


@dataclass(frozen=True, kw_only=True, eq=False)
class WholeBodyCommand:
    """Goals, in the frame of the pelvis; None is not asked for.

    A pose `[7]` is a position in metres and a quaternion, real part first.

    Raises:
        SpecMismatch: another shape, numbers that are not finite, or a quaternion that is no rotation.
    """

    root_velocity: np.ndarray | None = None
    """Forward and left, m/s, and yaw, rad/s `[3]`."""
    left_hand: np.ndarray | None = None
    right_hand: np.ndarray | None = None
    object_goal: np.ndarray | None = None
    """Where the object should come to be."""
    reference: np.ndarray | None = None
    """Joint positions of the control steps to come `[T, n]`, rad."""

    def __post_init__(self) -> None:
        for name in self.given:
            value = np.array(getattr(self, name), np.float64)
            shape = (3,) if name == "root_velocity" else (7,) if name in _POSES else None
            if value.ndim != 2 if shape is None else value.shape != shape:
                wanted = "[T, n]" if shape is None else list(shape)
                raise SpecMismatch(f"command.{name} is {wanted}, got {list(value.shape)}.")
            if not np.isfinite(value).all():
                raise SpecMismatch(f"command.{name} has numbers that are not finite: {value.tolist()}.")
            if name in _POSES and not 0.99 < np.linalg.norm(value[3:]) < 1.01:
                raise SpecMismatch(
                    f"command.{name} has a quaternion that is no rotation: {value[3:].tolist()}."
                )
            value.flags.writeable = False
            object.__setattr__(self, name, value)

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the goals that are asked for."""
        return tuple(name for name in GOALS if getattr(self, name) is not None)

    def without(self, *names: str) -> WholeBodyCommand:
        """The same command with some goals left out.

        Raises:
            ConfigError: no such goal; lists them.
        """
        for name in names:
            if name not in GOALS:
                raise ConfigError(unknown("goal", name, GOALS))
        return dataclasses.replace(self, **dict.fromkeys(names))

    def dropped(self, rng: np.random.Generator, chance: float) -> WholeBodyCommand:
        """The command with each goal left out by chance, for training."""
        return self.without(*(name for name in self.given if rng.random() < chance))


@dataclass(frozen=True, kw_only=True)
class CommandLayout:
    """Where each goal of a `WholeBodyCommand` is in the vector that a policy observes.

    The values come first, rotations as two rows of their matrix (six numbers, Zhou et al. 2019), then the
    mask: 1 for each goal that is given.
    """

    joints: int = 29
    """n, of the reference."""
    steps: int = 1
    """T, of the reference."""

    def __post_init__(self) -> None:
        if self.joints < 1 or self.steps < 1:
            raise ConfigError(f"A layout needs joints and steps >= 1, got {self.joints} and {self.steps}.")

    @property
    def slices(self) -> dict[str, slice]:
        """Of each goal's values, and of the "mask"."""
        sizes = {name: 9 if name in _POSES else 3 for name in GOALS}
        sizes |= {"reference": self.joints * self.steps, "mask": len(GOALS)}
        ends = np.cumsum(list(sizes.values())).tolist()
        return {name: slice(end - size, end) for (name, size), end in zip(sizes.items(), ends, strict=True)}

    @property
    def spec(self) -> ObservationSpec:
        """Of the encoded command."""
        return ObservationSpec(shape=(self.slices["mask"].stop,), frame="pelvis", group="command")

    def encode(self, command: WholeBodyCommand) -> np.ndarray:
        """A command as float32 `[size]`.

        Raises:
            SpecMismatch: a reference of another shape.
        """
        where = self.slices
        vector = np.zeros(where["mask"].stop, np.float32)
        for name in command.given:
            value = getattr(command, name)
            if name == "reference" and value.shape != (self.steps, self.joints):
                raise SpecMismatch(
                    f"command.reference is [{self.steps}, {self.joints}], got {list(value.shape)}."
                )
            vector[where[name]] = _with_rows(value) if name in _POSES else value.ravel()
            vector[where["mask"]][GOALS.index(name)] = 1.0
        return vector

    def decode(self, vector: np.ndarray) -> WholeBodyCommand:
        """The command that `encode` made a vector `[size]` from; quaternions with a real part >= 0.

        Raises:
            SpecMismatch: a vector of another size.
        """
        where = self.slices
        if vector.shape != self.spec.shape:
            raise SpecMismatch(f"An encoded command is {list(self.spec.shape)}, got {list(vector.shape)}.")
        goals = {}
        for name, there in zip(GOALS, vector[where["mask"]] > 0.5, strict=True):
            value = vector[where[name]].astype(np.float64)
            if there and name in _POSES:
                value = _with_quaternion(value)
            elif there and name == "reference":
                value = value.reshape(self.steps, self.joints)
            goals[name] = value if there else None
        return WholeBodyCommand(**goals)


def _with_rows(pose: np.ndarray) -> np.ndarray:
    """`[7]` to `[9]`."""
    matrix = Rotation.from_quat(np.roll(pose[3:], -1)).as_matrix()
    return np.concatenate([pose[:3], matrix[:2].ravel()])


def _with_quaternion(pose: np.ndarray) -> np.ndarray:
    """`[9]` to `[7]`."""
    first, second = pose[3:6], pose[6:]
    matrix = np.stack([first, second, np.cross(first, second)])
    quaternion = np.roll(Rotation.from_matrix(matrix).as_quat(), 1)
    return np.concatenate([pose[:3], quaternion if quaternion[0] >= 0 else -quaternion])
