"""The MuJoCo model of the Unitree G1 tasks: the upper body moves, the pelvis is held and the legs stand.

The robot is ``assets/g1.xml``. Each joint of waist and arms is a servo with the gains and torque limits of
the robot's joint controllers, evaluated at every physics step.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np

__all__ = [
    "ASSET",
    "BOX",
    "BOX_MASS",
    "G1",
    "HAND_RADIUS",
    "HOME",
    "JOINTS",
    "PHYSICS_HZ",
    "SIDES",
    "TABLE_Z",
    "build",
    "furnish",
    "gains",
]

ASSET = Path(__file__).parent / "assets" / "g1.xml"
PHYSICS_HZ = 500
_LEG = ("hip_pitch", "hip_roll", "hip_yaw", "knee", "ankle_pitch", "ankle_roll")
_WAIST = ("waist_yaw", "waist_roll", "waist_pitch")
_ARM = ("shoulder_pitch", "shoulder_roll", "shoulder_yaw", "elbow", "wrist_roll", "wrist_pitch", "wrist_yaw")
SIDES = ("left", "right")
JOINTS = tuple(
    f"{name}_joint" for name in (*_WAIST, *(f"{side}_{joint}" for side in SIDES for joint in _ARM))
)
"""Joints that move, in the order of the robot's motors 12 to 28."""
HOME = {
    **{
        f"{side}_{name}_joint": value
        for side in SIDES
        for name, value in zip(
            (*_LEG, *_ARM), (-0.1, 0.0, 0.0, 0.3, -0.2, 0.0, 0.2, 0.2, 0.0, 0.6, 0.0, 0.0, 0.0), strict=True
        )
    },
    **{f"{name}_joint": 0.0 for name in _WAIST},
    "right_shoulder_roll_joint": -0.2,
}
"""Posture that everything starts from, rad."""
_GAINS = {"waist": (200.0, 5.0), "wrist_roll": (40.0, 1.5), "wrist": (20.0, 1.0), "": (40.0, 1.5)}
"""kp, N m / rad, and kd, N m s / rad, by part of the joint's name; the first that fits."""
_PELVIS_Z = 0.7842
"""Height of the pelvis with straight soles on the floor, metres."""
TABLE_Z = 0.0
"""Height of the table's top over the pelvis, metres."""
BOX = np.array([0.09, 0.12, 0.08])
"""Half the sides of the box, metres."""
BOX_MASS = 0.6
HAND_RADIUS = 0.035
_TABLE_X = (0.26, 0.60)
_TABLE_Y = 0.35
_COLOURS = {"left": [0.20, 0.55, 0.95, 1.0], "right": [0.95, 0.45, 0.15, 1.0]}


@dataclass(frozen=True, slots=True)
class G1:
    """A compiled model and where the robot is in it; all arrays in the order of `JOINTS`."""

    model: mujoco.MjModel
    qpos: np.ndarray
    dof: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    kp: np.ndarray
    home: np.ndarray
    hands: tuple[int, int]
    """Sites of the left and the right hand."""
    origin: np.ndarray
    """The pelvis in the world `[3]`, which is not turned against it; places are told from there."""


def gains(joint: str) -> tuple[float, float]:
    """kp and kd of a joint's servo."""
    return next(values for part, values in _GAINS.items() if part in joint)


def build(*, box: bool) -> G1:
    """The robot with a table and a box before it, or with a target for each hand."""
    spec = mujoco.MjSpec.from_file(str(ASSET))
    spec.option.timestep = 1.0 / PHYSICS_HZ
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10.0  # a held box creeps less
    _hold_lower_body(spec)
    _add_servos(spec)
    origin = np.array([0.0, 0.0, _PELVIS_Z])
    _add_surroundings(spec)
    furnish(spec, origin, box=box)
    for side in SIDES:
        hand = next(site for site in spec.sites if site.name == f"{side}_hand").parent
        hand.geoms[0].rgba = _COLOURS[side]
        _add_ball(spec.body(f"{side}_shoulder_roll_link"), 0.045, [0.0, 0.0, -0.01])
    _add_ball(spec.body("torso_link"), 0.045, [0.005, 0.0, 0.33])
    _add_ball(spec.body("torso_link"), 0.07, [0.0, 0.0, 0.02])
    model = spec.compile()
    joints = [model.joint(name) for name in JOINTS]
    return G1(
        model=model,
        qpos=np.array([joint.qposadr[0] for joint in joints]),
        dof=np.array([joint.dofadr[0] for joint in joints]),
        lower=np.array([joint.range[0] for joint in joints]),
        upper=np.array([joint.range[1] for joint in joints]),
        kp=model.actuator_gainprm[:, 0].copy(),
        home=np.array([HOME[name] for name in JOINTS]),
        hands=(model.site("left_hand").id, model.site("right_hand").id),
        origin=origin,
    )


def furnish(spec: mujoco.MjSpec, origin: np.ndarray, *, box: bool) -> None:
    """Add what a task needs beside a robot whose pelvis is at `origin` `[3]`.

    Either a table and the free body "box", or the mocap bodies "left_target" and "right_target".
    """
    if box:
        _add_box(spec, origin)
        return
    for side in SIDES:
        target = spec.worldbody.add_body(name=f"{side}_target", mocap=True)
        _add_shape(target, mujoco.mjtGeom.mjGEOM_SPHERE, [0.045, 0, 0], [*_COLOURS[side][:3], 0.5])


def _hold_lower_body(spec: mujoco.MjSpec) -> None:
    """Take the joints of base and legs away; the legs keep the home posture."""
    pelvis = spec.body("pelvis")
    pelvis.pos = [0.0, 0.0, _PELVIS_Z]
    for joint in list(spec.joints):
        if joint.name in JOINTS:
            continue
        if joint.type == mujoco.mjtJoint.mjJNT_HINGE:
            turn, quaternion = np.empty(4), np.empty(4)
            mujoco.mju_axisAngle2Quat(turn, np.array(joint.axis), HOME[joint.name])
            mujoco.mju_mulQuat(quaternion, np.array(joint.parent.quat), turn)
            joint.parent.quat = quaternion
        for actuator in list(spec.actuators):
            if actuator.target == joint.name:
                spec.delete(actuator)
        spec.delete(joint)


def _add_servos(spec: mujoco.MjSpec) -> None:
    for actuator in spec.actuators:
        kp, kd = gains(actuator.target)
        actuator.gainprm[0] = kp
        actuator.biastype = mujoco.mjtBias.mjBIAS_AFFINE
        actuator.biasprm[1:3] = -kp, -kd


def _add_surroundings(spec: mujoco.MjSpec) -> None:
    world = spec.worldbody
    spec.add_texture(
        name="floor",
        type=mujoco.mjtTexture.mjTEXTURE_2D,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
        rgb1=[0.86, 0.87, 0.89],
        rgb2=[0.80, 0.81, 0.84],
        width=256,
        height=256,
    )
    material = spec.add_material(name="floor", texrepeat=[8, 8])
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "floor"
    _add_shape(world, mujoco.mjtGeom.mjGEOM_PLANE, [4, 4, 0.1], [1, 1, 1, 1]).material = "floor"
    spec.add_texture(
        name="sky",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=[0.93, 0.95, 0.97],
        rgb2=[0.75, 0.80, 0.86],
        width=64,
        height=64,
    )
    world.add_light(pos=[1.5, 1.0, 3.0], dir=[-0.45, -0.3, -1.0], diffuse=[0.6, 0.6, 0.6])
    spec.visual.headlight.diffuse = [0.45, 0.45, 0.45]
    spec.visual.headlight.ambient = [0.30, 0.30, 0.30]
    spec.visual.quality.shadowsize = 2048
    _add_camera(spec, "front", eye=[1.55, 0.75, 1.35], at=[0.15, 0.0, 0.80])
    _add_camera(spec, "side", eye=[0.35, 1.75, 1.20], at=[0.20, 0.0, 0.80])


def _add_camera(spec: mujoco.MjSpec, name: str, *, eye: list[float], at: list[float]) -> None:
    back = np.array(eye) - np.array(at)
    right = np.cross([0.0, 0.0, 1.0], back)
    axes = [axis / np.linalg.norm(axis) for axis in (right, np.cross(back, right), back)]
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, np.stack(axes, axis=1).ravel())
    spec.worldbody.add_camera(name=name, pos=eye, quat=quaternion, fovy=42)


def _add_box(spec: mujoco.MjSpec, origin: np.ndarray) -> None:
    top, thick = float(origin[2]) + TABLE_Z, 0.02
    middle, half = 0.5 * sum(_TABLE_X), 0.5 * (_TABLE_X[1] - _TABLE_X[0])
    wood = [0.72, 0.58, 0.44, 1.0]
    plate = spec.worldbody.add_body(name="table", pos=[middle, 0.0, top - thick])
    plate.add_geom(name="table", type=mujoco.mjtGeom.mjGEOM_BOX, size=[half, _TABLE_Y, thick], rgba=wood)
    leg = 0.5 * (top - 2 * thick)
    for x in (-half, half):
        for y in (-_TABLE_Y, _TABLE_Y):
            foot = _add_shape(plate, mujoco.mjtGeom.mjGEOM_BOX, [0.02, 0.02, leg], wood)
            foot.pos = [x - np.sign(x) * 0.03, y - np.sign(y) * 0.03, -thick - leg]
    body = spec.worldbody.add_body(name="box", pos=[middle, 0.0, top + float(BOX[2])])
    body.add_freejoint(name="box")
    body.add_geom(
        name="box",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=BOX,
        mass=BOX_MASS,
        condim=4,
        friction=[1.0, 0.02, 0.0001],
        rgba=[0.85, 0.70, 0.25, 1.0],
    )


def _add_ball(body: mujoco.MjsBody, radius: float, place: list[float]) -> None:
    """Fills a gap between two shells."""
    _add_shape(body, mujoco.mjtGeom.mjGEOM_SPHERE, [radius, 0, 0], [0.45, 0.46, 0.48, 1.0]).pos = place


def _add_shape(
    body: mujoco.MjsBody, kind: mujoco.mjtGeom, size: list[float], rgba: list[float]
) -> mujoco.MjsGeom:
    """Something to be seen, that touches nothing."""
    return body.add_geom(type=kind, size=size, rgba=rgba, contype=0, conaffinity=0)
