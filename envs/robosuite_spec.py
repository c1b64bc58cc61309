"""Observations and actions of robosuite's tasks in words and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from robopolicy.spec import ActionPart, ActionSpec, ObservationSpec, Spec

__all__ = ["PROPRIOCEPTION", "Controller", "make_spec"]

Controller = Literal["delta", "absolute", "joint_delta"]
_ONE_ROBOT = {
    "eef_pos": ObservationSpec(shape=(3,), unit="m", frame="world", group="proprioception"),
    "eef_quat": ObservationSpec(shape=(4,), rotation="quat_xyzw", frame="world", group="proprioception"),
    "eef_quat_site": ObservationSpec(shape=(4,), rotation="quat_xyzw", frame="world", group="proprioception"),
    "gripper_qpos": ObservationSpec(shape=(2,), unit="m", group="proprioception"),
    "joint_pos": ObservationSpec(shape=(7,), unit="rad", group="proprioception"),
    "joint_vel": ObservationSpec(shape=(7,), unit="rad/s", group="proprioception"),
}
PROPRIOCEPTION = {f"robot{i}_{name}": spec for i in (0, 1) for name, spec in _ONE_ROBOT.items()}
"""Of the first robot and, in tasks for two, the second."""


def make_spec(
    proprioception: tuple[str, ...],
    controller: Controller,
    *,
    robots: int,
    object_size: int,
    images: Mapping[str, ObservationSpec],
    control_hz: int,
) -> Spec:
    """The spec of a task for one or two robots, whose actions follow one another."""
    observations = {key: PROPRIOCEPTION[key] for key in proprioception}
    observations["object-state"] = ObservationSpec(shape=(object_size,), frame="world", group="object")
    observations.update(images)
    names: list[str] = []
    low: list[float] = []
    high: list[float] = []
    parts: list[ActionPart] = []
    for number in range(robots):
        prefix = f"robot{number}_" if robots > 1 else ""
        one = _one_action(controller, f"robot{number}_", observations)
        names += [prefix + name for name in one.names]
        low += one.low
        high += one.high
        parts += one.parts
    action = ActionSpec(
        names=tuple(names),
        low=tuple(low),
        high=tuple(high),
        representation=one.representation,
        unit=one.unit,
        gripper="-1 open, +1 closed",
        parts=tuple(parts),
    )
    return Spec(observations=observations, action=action, control_hz=float(control_hz))


def _one_action(
    controller: Controller, robot: str, observations: Mapping[str, ObservationSpec]
) -> ActionSpec:
    gripper = ActionPart(kind="gripper", size=1)
    names = ("x", "y", "z", "rx", "ry", "rz", "gripper")
    if controller == "joint_delta":
        return ActionSpec(
            names=(*(f"joint{i}" for i in range(7)), "gripper"),
            low=(-1.0,) * 8,
            high=(1.0,) * 8,
            representation="joint_delta",
            unit="0.05 rad",
            parts=(ActionPart(kind="joint", size=7), gripper),
        )
    if controller == "delta":
        position = ActionPart(kind="position", size=3)
        rotation = ActionPart(kind="rotation", size=3, rotation="axis_angle")
        return ActionSpec(
            names=names,
            low=(-1.0,) * 7,
            high=(1.0,) * 7,
            representation="ee_delta",
            unit="5 cm and 0.5 rad",
            parts=(position, rotation, gripper),
        )
    where, turned = (
        key if key in observations else None for key in (f"{robot}eef_pos", f"{robot}eef_quat_site")
    )
    position = ActionPart(kind="position", size=3, reference=where)
    rotation = ActionPart(kind="rotation", size=3, rotation="axis_angle", reference=turned)
    return ActionSpec(
        names=names,
        low=(-1.0, -1.0, 0.5, -4.0, -4.0, -4.0, -1.0),
        high=(1.0, 1.0, 1.5, 4.0, 4.0, 4.0, 1.0),
        representation="ee_pose",
        unit="m and rad",
        parts=(position, rotation, gripper),
    )
