"""What a robot observes and takes, from its yaml: for recording without an environment or a policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from hardware.command_map import CommandMapConfig
from hardware.spec import RobotSpec
from robopolicy.errors import ConfigError, SpecMismatch
from robopolicy.registry import parse
from robopolicy.spec import ActionPart, ActionSpec, ObservationSpec, Spec

__all__ = ["derive_spec", "with_references"]

_SIZES = {"position": 3, "quat_xyzw": 4, "quat_wxyz": 4, "offset": 3, "opening": 1, "fingers": 2}
_FAR = 10.0


def derive_spec(robot: RobotSpec, control_hz: float, samples: Mapping[str, np.ndarray]) -> Spec:
    """Observations as the robot's yaml makes them; the action that its `command_map` takes.

    Args:
        control_hz: of the policy.
        samples: one value of each stream that delivers, which tells sizes.

    Raises:
        SpecMismatch: a stream that an observation needs has delivered nothing.
        ConfigError: the yaml has no observations.
    """
    if not robot.observations:
        raise ConfigError(f"{robot.name} has no observations in its yaml, so there is nothing to record.")
    observations = {key: _observation(robot, key, samples) for key in robot.observations}
    return Spec(observations=observations, action=_action(robot), control_hz=control_hz)


def with_references(spec: Spec, robot: RobotSpec) -> Spec:
    """The same, where the robot's yaml says which observation tells where an absolute part is now."""
    site = str(robot.command_map.get("end_effector", ""))
    sources = {
        "joint": ("joints.position",),
        "position": (f"{site}.position",),
        "rotation": (f"{site}.quat_xyzw", f"{site}.quat_wxyz"),
    }
    parts = []
    for part in spec.action.parts:
        keys = [_key_of(robot, source) for source in sources.get(part.kind, ())]
        known = next((key for key in keys if key in spec.observations), None)
        parts.append(part if part.reference or known is None else replace(part, reference=known))
    return replace(spec, action=replace(spec.action, parts=tuple(parts)))


def _observation(robot: RobotSpec, key: str, samples: Mapping[str, np.ndarray]) -> ObservationSpec:
    size, parts = 0, [part.split(".") for part in robot.observations[key]]
    for source, what in parts:
        if source == "joints":
            size += robot.size
        elif what in ("image", "value"):
            if source not in samples:
                hint = f" Give task=..., or session.cameras.{source}=84." if robot.simulator else ""
                raise SpecMismatch(f"{robot.name}, {key!r}: nothing has come from {source!r} yet.{hint}")
            if what == "image":
                return ObservationSpec(shape=samples[source].shape, dtype="uint8", kind="image")
            size += samples[source].size
        else:
            size += _SIZES[what]
    own = ("joints", "gripper", *robot.end_effectors)
    group = "proprioception" if all(source in own for source, _ in parts) else "object"
    if len(parts) == 1 and parts[0][1] in ("quat_xyzw", "quat_wxyz"):
        kind = "quat_xyzw" if parts[0][1] == "quat_xyzw" else "quat_wxyz"
        return ObservationSpec(shape=(4,), group=group, rotation=kind)  # type: ignore[arg-type]
    return ObservationSpec(shape=(size,), group=group)


def _action(robot: RobotSpec) -> ActionSpec:
    config = parse(CommandMapConfig, dict(robot.command_map), f"robot={robot.name}: command_map")
    if config.representation == "joint_position":
        names = config.joints or robot.names
        moving = [robot.index(name) for name in names]
        low, high = robot.array("lower")[moving], robot.array("upper")[moving]
        parts = [ActionPart(kind="joint", size=len(names), reference=_key_of(robot, "joints.position"))]
    elif config.representation == "ee_pose" and "," not in config.end_effector:
        names = ("x", "y", "z", "rx", "ry", "rz")
        low, high = np.full(6, -_FAR), np.full(6, _FAR)
        site = config.end_effector
        turned = _key_of(robot, f"{site}.quat_xyzw") or _key_of(robot, f"{site}.quat_wxyz")
        parts = [
            ActionPart(kind="position", size=3, reference=_key_of(robot, f"{site}.position")),
            ActionPart(kind="rotation", size=3, rotation="axis_angle", reference=turned),
        ]
    else:
        raise ConfigError(f"{robot.name}: a device steers one pose or joints, not {config.representation}.")
    bounds = [*zip(low.tolist(), high.tolist(), strict=True)]
    convention = ""
    if robot.gripper is not None:
        names, parts = (*names, "gripper"), [*parts, ActionPart(kind="gripper", size=1)]
        ends = (config.gripper_open, config.gripper_closed)
        bounds.append((min(ends), max(ends)))
        convention = f"{config.gripper_open:g} open, {config.gripper_closed:g} closed"
    return ActionSpec(
        names=tuple(names),
        low=tuple(low for low, _ in bounds),
        high=tuple(high for _, high in bounds),
        representation=config.representation,
        gripper=convention,
        parts=tuple(parts),
    )


def _key_of(robot: RobotSpec, part: str) -> str | None:
    return next((key for key, parts in robot.observations.items() if parts == (part,)), None)
