"""From what a person's hand does to a policy's actions: poses, changes of pose, joints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from hardware.teleop.device import Motion
from robopolicy.errors import ConfigError
from robopolicy.spec import ActionPart, Spec

__all__ = ["Human", "HumanConfig"]

_JOINTS = 6


@dataclass(frozen=True, kw_only=True)
class HumanConfig:
    """How fast a full deflection is."""

    linear_speed: float = 0.15
    """m/s."""
    angular_speed: float = 0.6
    """rad/s."""
    joint_speed: float = 0.5
    """rad/s, for actions that are joint positions: the six axes are the first six joints."""
    delta_share: float = 0.4
    """Of the largest action, for actions that are changes."""
    leash: float = 0.08
    """m that a target may be ahead of the hand, so that it does not run away from an arm that is held up."""

    def __post_init__(self) -> None:
        for name in ("linear_speed", "angular_speed", "joint_speed", "leash"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"human.{name} must be positive, got {getattr(self, name)}.")
        if not 0 < self.delta_share <= 1:
            raise ConfigError(f"human.delta_share must be in (0, 1], got {self.delta_share}.")


class Human:
    """Integrates motions into actions of a spec. Targets begin where the robot is.

    Raises:
        ConfigError: the action has parts that no hand can steer, or absolute ones that no observation tells.
    """

    def __init__(self, spec: Spec, config: HumanConfig) -> None:
        self.spec, self.config, self.dt = spec, config, 1.0 / spec.control_hz
        self._absolute = spec.action.holds_position
        self._low, self._high = np.array(spec.action.low), np.array(spec.action.high)
        kinds = [part.kind for part in spec.action.parts]
        for kind in ("position", "rotation", "joint"):
            if kinds.count(kind) > 1:
                raise ConfigError(
                    f"A device steers one hand; the action has {kinds.count(kind)} {kind} parts."
                )
        for part in spec.action.parts:
            if part.kind == "other":
                raise ConfigError("The action does not say what its parts are: nobody can steer 'other'.")
            if self._absolute and part.kind != "gripper" and part.reference is None:
                raise ConfigError(
                    f"The action's {part.kind} is absolute, and no observation tells where that is now: "
                    "give the part a reference."
                )
        self._closed = False
        self._targets: dict[str, np.ndarray] = {}

    @property
    def closed(self) -> bool:
        """What the gripper is told: the upper end of its range, or the lower."""
        return self._closed

    def begin(self, observation: Mapping[str, np.ndarray], last: np.ndarray | None = None) -> None:
        """Take over where the robot is.

        Args:
            observation: one, `{key: [...]}`.
            last: the action before `[Da]`, which says how the gripper is; open without.
        """
        self._targets = {}
        self._closed = False
        for part, where in self.spec.action.slices():
            if part.kind == "gripper" and last is not None:
                middle = 0.5 * (self._low[where] + self._high[where])
                self._closed = bool((last[where] > middle).all())
            elif part.kind != "gripper" and self._absolute:
                self._targets[part.kind] = self._measured(part, observation)

    def act(self, motion: Motion, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """The next action `[Da]`, float32, within its bounds."""
        self._closed ^= motion.toggle_gripper
        action = np.zeros(self.spec.action.size)
        for part, where in self.spec.action.slices():
            if part.kind == "gripper":
                action[where] = (self._high if self._closed else self._low)[where]
            elif self._absolute:
                action[where] = self._moved(part, motion, observation)
            else:
                action[where] = self.config.delta_share * self._high[where] * _change(part, motion)
        return np.clip(action, self._low, self._high).astype(np.float32)

    def _moved(self, part: ActionPart, motion: Motion, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        config, target = self.config, self._targets[part.kind]
        if part.kind == "rotation":
            turn = Rotation.from_rotvec(config.angular_speed * self.dt * motion.angular)
            target = _numbers(part.rotation or "", turn * _rotation(part.rotation or "", target))
        elif part.kind == "joint":
            target = target + config.joint_speed * self.dt * _change(part, motion)
        else:
            target = target + config.linear_speed * self.dt * _change(part, motion)
            ahead = target - self._measured(part, observation)
            target -= ahead * max(0.0, 1.0 - config.leash / max(float(np.linalg.norm(ahead)), 1e-9))
        self._targets[part.kind] = target
        return target

    def _measured(self, part: ActionPart, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        assert part.reference is not None
        value = np.asarray(observation[part.reference], np.float64)
        if part.kind != "rotation":
            return value
        reference = self.spec.observations[part.reference].rotation
        return _numbers(part.rotation or "", _rotation(reference or part.rotation or "", value))


def _change(part: ActionPart, motion: Motion) -> np.ndarray:
    if part.kind == "joint":
        both = np.concatenate([motion.linear, motion.angular])
        change = np.zeros(part.size)
        change[:_JOINTS] = both[: min(part.size, _JOINTS)]
        return change
    return (motion.linear if part.kind == "position" else motion.angular)[: part.size]


def _rotation(representation: str, value: np.ndarray) -> Rotation:
    if representation == "axis_angle":
        return Rotation.from_rotvec(value)
    if representation == "rot6d":  # the first two rows of the matrix
        first = value[:3] / np.linalg.norm(value[:3])
        second = value[3:] - (first @ value[3:]) * first
        second /= np.linalg.norm(second)
        return Rotation.from_matrix(np.stack([first, second, np.cross(first, second)]))
    return Rotation.from_quat(value if representation == "quat_xyzw" else np.roll(value, -1))


def _numbers(representation: str, rotation: Rotation) -> np.ndarray:
    if representation == "axis_angle":
        return np.asarray(rotation.as_rotvec())
    if representation == "rot6d":
        return np.asarray(rotation.as_matrix()[:2].ravel())
    quaternion = np.asarray(rotation.as_quat())
    return quaternion if representation == "quat_xyzw" else np.roll(quaternion, 1)
