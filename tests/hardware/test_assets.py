"""The models written here agree with the robots' specs, and with others' models where those are installed."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from hardware.models import model_path, providers
from hardware.robots.unitree_g1 import MOTORS
from hardware.spec import RobotSpec

PAIRS = [("g1_sim", "g1.xml"), ("panda_sim", "panda.xml")]


def load(name: str) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(str(model_path(name)))


@pytest.mark.parametrize(("robot", "model_name"), PAIRS)
def test_joints_and_ranges_are_those_of_the_spec(robot: str, model_name: str) -> None:
    spec, model = RobotSpec.load(robot), load(model_name)
    assert model.nmesh == 0
    hinges = [i for i in range(model.njnt) if model.jnt_type[i] == mujoco.mjtJoint.mjJNT_HINGE]
    assert tuple(model.joint(i).name for i in hinges) == spec.names
    np.testing.assert_allclose(model.jnt_range[hinges].T, [spec.array("lower"), spec.array("upper")])


@pytest.mark.parametrize(("robot", "model_name"), PAIRS)
def test_home_is_free_of_contacts(robot: str, model_name: str) -> None:
    spec, model = RobotSpec.load(robot), load(model_name)
    data = mujoco.MjData(model)
    for name, value in zip(spec.names, spec.array("home"), strict=True):
        data.qpos[model.joint(name).qposadr[0]] = value
    model.geom_margin[:] = spec.guard.collision_margin
    mujoco.mj_kinematics(model, data)
    mujoco.mj_collision(model, data)
    assert data.ncon == 0


def test_g1_actuators_are_its_motors() -> None:
    spec, model = RobotSpec.load("g1_sim"), load("g1.xml")
    assert [f"{model.actuator(i).name}_joint" for i in range(model.nu)] == list(MOTORS)
    np.testing.assert_allclose(model.actuator_forcerange[:, 1], spec.array("effort"))
    assert float(model.body_subtreemass[1]) == pytest.approx(33.341, abs=1e-3)


def test_g1_is_symmetric() -> None:
    model = load("g1.xml")
    checked = 0
    for index in range(model.nbody):
        name = model.body(index).name
        if name.startswith("left_"):
            other = model.body(name.replace("left_", "right_")).id
            assert model.body_mass[index] == model.body_mass[other]
            np.testing.assert_allclose(model.body_inertia[index], model.body_inertia[other], rtol=2e-3)
            np.testing.assert_allclose(model.body_ipos[index], model.body_ipos[other] * [1, -1, 1], atol=1e-5)
            sizes = [model.geom_size[model.geom_bodyid == body] for body in (index, other)]
            np.testing.assert_array_equal(*sizes)
            checked += 1
    assert checked == 13


def test_g1_equals_mjlabs() -> None:
    """Order, ranges, masses and poses."""
    found = next((entry for entry in providers("g1") if entry.provider == "mjlab"), None)
    if found is None:
        pytest.skip("compares with the model in mjlab, which is not installed (pip install --no-deps mjlab)")
    theirs, ours = mujoco.MjModel.from_xml_path(str(found.path)), load("g1.xml")
    assert [theirs.joint(i).name for i in range(1, theirs.njnt)] == [
        ours.joint(i).name for i in range(1, ours.njnt)
    ]
    assert [theirs.body(i).name for i in range(theirs.nbody)] == [
        ours.body(i).name for i in range(ours.nbody)
    ]
    np.testing.assert_array_equal(theirs.jnt_range[1:], ours.jnt_range[1:])
    np.testing.assert_allclose(theirs.body_mass, ours.body_mass)
    np.testing.assert_allclose(theirs.body_ipos, ours.body_ipos)
    np.testing.assert_allclose(theirs.body_inertia, ours.body_inertia)
    rng = np.random.default_rng(0)
    low, high = ours.jnt_range[1:].T
    poses = []
    q = rng.uniform(low, high)
    for model in (theirs, ours):
        data = mujoco.MjData(model)
        data.qpos[7:] = q
        mujoco.mj_kinematics(model, data)
        poses.append(np.concatenate([data.xpos - data.xpos[1], data.xmat], axis=1)[1:])
    np.testing.assert_allclose(poses[0], poses[1], atol=1e-9)


@pytest.mark.sim
def test_panda_equals_robosuites() -> None:
    from robosuite.models.robots import Panda

    arm = Panda()
    theirs, ours = arm.get_model(), load("panda.xml")
    assert theirs.njnt == ours.njnt
    np.testing.assert_allclose(theirs.jnt_range, ours.jnt_range)
    rng = np.random.default_rng(0)
    for _ in range(20):
        q = rng.uniform(*ours.jnt_range.T)
        links = []
        for model, prefix in ((theirs, "robot0_link"), (ours, "panda_link")):
            data = mujoco.MjData(model)
            data.qpos[:] = q
            mujoco.mj_kinematics(model, data)
            links.append(np.array([data.body(f"{prefix}{i}").xpos for i in range(8)]))
        np.testing.assert_allclose(links[0] - links[0][0], links[1] - links[1][0], atol=1e-6)
