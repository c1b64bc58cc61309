"""The shadow model: where a joint position would put the robot, and how close that is to anything."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import mujoco
import numpy as np

from hardware.models import model_path
from hardware.spec import RobotSpec
from robopolicy.errors import ConfigError, unknown

__all__ = ["Nearness", "Shadow", "longest"]

# Added to every margin: a straight line between two poses in joint space is curved in space.
_SLACK = 3e-3
# m beyond the margins up to which distances are known.
_HORIZON = 0.03


class Shadow:
    """Kinematics and distances of the robot's MJCF. Neither steps nor renders.

    Joints that the spec does not name stay at the model's reference position; a free base is held there
    too. Positions are in the model's world frame. Geoms that collide (contype, conaffinity) count; neighbours
    do not, nor do pairs under `<exclude>`.

    Args:
        spec: with a `model`.

    Raises:
        ConfigError: the model has no such joint or site; lists those it has.
    """

    def __init__(self, spec: RobotSpec) -> None:
        description = mujoco.MjSpec.from_file(str(model_path(spec.model)))
        for index, box in enumerate(spec.obstacles):
            low, high = np.array(box.low), np.array(box.high)
            description.worldbody.add_geom(
                name=f"obstacle_{index}",
                type=mujoco.mjtGeom.mjGEOM_BOX,
                pos=0.5 * (low + high),
                size=0.5 * (high - low),
            )
        _boxes_to_meshes(description)
        self._margins = _SLACK + np.array([spec.guard.collision_margin, spec.guard.obstacle_margin])
        for geom in description.geoms:
            # Before compiling, which derives the margins of bodies. Contacts are found up to the larger of
            # two margins, in newer versions up to their sum.
            geom.margin = self._margins.max() + _HORIZON
        model = description.compile()
        for body in range(1, model.nbody):
            # MuJoCo leaves out neighbours, but not those of a body that is fixed to the world.
            parent = int(model.body_parentid[body])
            if parent > 0 and model.body_weldid[parent] == 0:
                description.add_exclude(bodyname1=model.body(body).name, bodyname2=model.body(parent).name)
        self.model = description.compile()
        self.data = mujoco.MjData(self.model)
        # Asking for them takes time.
        self._qpos, self._site_xpos, self._centres = self.data.qpos, self.data.site_xpos, self.data.geom_xpos
        self._fixed = (self.model.geom_bodyid == 0).astype(int)
        radii, bodies = self.model.geom_rbound, self.model.geom_bodyid
        radii = np.where(radii > 0.0, radii, np.inf)  # of planes, which have none
        self._extent = radii[:, None] + radii + self._margins.max()
        parents = self.model.body_parentid[bodies]
        child = (parents[:, None] == bodies) & (bodies > 0)
        linked = (bodies[:, None] == bodies) | child | child.T
        self._extent[linked] = -np.inf  # these never meet
        self.distance = 0.0
        """The smallest distance beyond its margin that the last `penetration` found, up to a horizon."""
        self.reach = _reach(self.model)
        """m: no point is farther from any joint's axis."""
        self._address = np.array([self._joint(name) for name in spec.names])
        first, last = int(self._address[0]), int(self._address[-1]) + 1
        ordered = np.array_equal(self._address, np.arange(first, last))
        self._where: slice | np.ndarray = slice(first, last) if ordered else self._address
        self._names = spec.end_effectors
        self._sites = np.array([self._site(name) for name in spec.end_effectors], dtype=int)
        self._jacobian = np.zeros((3, self.model.nv))
        self._dof = np.array([int(self.model.joint(name).dofadr[0]) for name in spec.names])
        space = spec.workspace
        self._box = ([x + _SLACK for x in space.low], [x - _SLACK for x in space.high]) if space else None

    def place(self, q: np.ndarray) -> np.ndarray:
        """Move to joint positions `[n]`; the end effectors' positions `[E, 3]`, a copy."""
        self._qpos[self._where] = q
        mujoco.mj_kinematics(self.model, self.data)
        return self._site_xpos.take(self._sites, axis=0)

    def poses(self, q: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Position `[3]` and quaternion `[4]`, real part first, of every end effector at positions `[n]`.

        The quaternion is a product along the chain of bodies, hence continuous in q.
        """
        self.place(q)
        found = {}
        for name, site in zip(self._names, self._sites, strict=True):
            quaternion = np.empty(4)
            body = self.data.xquat[self.model.site_bodyid[site]]
            mujoco.mju_mulQuat(quaternion, body, self.model.site_quat[site])
            found[name] = self.data.site_xpos[site].copy(), quaternion
        return found

    @property
    def centres(self) -> np.ndarray:
        """Where the last `place` put the middle of every geom `[G, 3]`, a copy."""
        return self._centres.copy()

    def penetration(self) -> float:
        """By how much the worst distance is below its margin, where the last `place` put it; 0 is free."""
        mujoco.mj_collision(self.model, self.data)
        self.distance = _HORIZON
        if self.data.ncon:
            self.distance = min(_HORIZON, float(np.minimum.reduce(self._beyond())))
        return max(0.0, -self.distance)

    def _beyond(self) -> np.ndarray:
        """Distances of the contacts beyond their margins."""
        contact = self.data.contact
        fixed = self._fixed.take(contact.geom)
        beyond: np.ndarray = contact.dist - self._margins.take(fixed[:, 0] | fixed[:, 1])
        return beyond

    def nearness(self) -> Nearness:
        """Where the last `place` put the geoms, and the distances that the last `penetration` found."""
        centres = self.centres
        apart = centres[:, None] - centres
        apart = np.sqrt(np.add.reduce(apart * apart, axis=2))
        clear = np.maximum(apart - self._extent, _HORIZON)
        if self.data.ncon:
            beyond, (one, other) = self._beyond(), self.data.contact.geom.T
            farthest_first = np.argsort(-beyond)  # of several between two geoms the nearest stays
            clear[one[farthest_first], other[farthest_first]] = beyond[farthest_first]
        return Nearness(centres, clear)

    def outside(self, sites: np.ndarray) -> float:
        """By how much the end effectors `[E, 3]` are outside the workspace; 0 is inside."""
        return max(0.0, -self.room(sites))

    def room(self, sites: np.ndarray) -> float:
        """Distance of the end effectors `[E, 3]` to the walls of the workspace, negative outside."""
        if self._box is None:
            return np.inf
        low, high = self._box
        return min(
            min(x - lower, upper - x)
            for site in sites.tolist()
            for lower, x, upper in zip(low, site, high, strict=True)
        )

    def jacobians(self, q: np.ndarray) -> np.ndarray:
        """Velocity of every end effector by joint velocity `[E, 3, n]` at joint positions `[n]`."""
        self.place(q)
        mujoco.mj_comPos(self.model, self.data)
        result = np.empty((len(self._sites), 3, len(self._dof)))
        for index, site in enumerate(self._sites):
            mujoco.mj_jacSite(self.model, self.data, self._jacobian, None, site)
            result[index] = self._jacobian[:, self._dof]
        return result

    def pairs(self) -> list[tuple[str, str, float]]:
        """The pairs of bodies that the last `penetration` found close, with their distances."""
        body = self.model.geom_bodyid
        return [
            (self.model.body(body[c.geom1]).name, self.model.body(body[c.geom2]).name, float(c.dist))
            for c in self.data.contact
        ]

    def _joint(self, name: str) -> int:
        index = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_JOINT, name)
        if index < 0:
            raise ConfigError(unknown("joint of the model", name, _names(self.model, "joint")))
        return int(self.model.jnt_qposadr[index])

    def _site(self, name: str) -> int:
        index = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_SITE, name)
        if index < 0:
            raise ConfigError(unknown("site of the model", name, _names(self.model, "site")))
        return index


@dataclass(frozen=True, slots=True)
class Nearness:
    """How near the geoms of a model were to each other in one pose."""

    centres: np.ndarray
    """`[G, 3]`, metres."""
    clear: np.ndarray
    """At least so far beyond the margin `[G, G]`, in the order in which contacts have the two."""

    def may_have_met(self, other: Nearness) -> bool:
        """Whether two geoms moved so far between two poses that they may have been too near in between."""
        moved, room = other.centres - self.centres, self.clear + other.clear
        one, two = np.nonzero(room <= 2.0 * longest(moved))
        apart, enough = moved[one] - moved[two], np.maximum(room[one, two], 0.0)
        return bool(np.count_nonzero(np.square(apart).sum(axis=1) > np.square(enough)))


def longest(vectors: np.ndarray) -> float:
    """The largest norm of many vectors `[G, 3]`."""
    return math.sqrt(float(np.maximum.reduce(np.add.reduce(vectors * vectors, axis=1))))


def _reach(model: mujoco.MjModel) -> float:
    """The longest way from the root of the model along its bodies to a point on a geom or a site."""
    along = np.zeros(model.nbody)
    for body in range(1, model.nbody):
        parent = model.body_parentid[body]
        along[body] = along[parent] + np.linalg.norm(model.body_pos[body]) if parent else 0.0
    moving = np.flatnonzero(model.geom_bodyid)
    geoms = np.linalg.norm(model.geom_pos[moving], axis=1) + model.geom_rbound[moving]
    sites = along[model.site_bodyid] + np.linalg.norm(model.site_pos, axis=1)
    return float(max((along[model.geom_bodyid[moving]] + geoms).max(), sites.max(initial=0.0)))


def _boxes_to_meshes(description: mujoco.MjSpec) -> None:
    """Between two boxes MuJoCo reports deep contacts that are not there; between meshes it does not."""
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
    for index, geom in enumerate(description.geoms):
        if geom.type == mujoco.mjtGeom.mjGEOM_BOX:
            description.add_mesh(name=f"box_{index}", uservert=(signs * geom.size).ravel())
            geom.type, geom.meshname = mujoco.mjtGeom.mjGEOM_MESH, f"box_{index}"


def _names(model: mujoco.MjModel, kind: str) -> list[str]:
    count = {"joint": model.njnt, "site": model.nsite}[kind]
    return [getattr(model, kind)(index).name for index in range(count)]
