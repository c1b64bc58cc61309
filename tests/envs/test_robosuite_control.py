"""The compiled control step does what robosuite does, to the last bit."""

from __future__ import annotations

import logging

import mujoco
import numpy as np
import pytest
import robosuite

import envs.robosuite_control
from envs.native import disable_flags
from envs.opspace import gives_robosuites_bits, operational_space, work_space
from envs.robosuite_control import SAVINGS, not_covered
from robopolicy.benchmark.equality import check_equality, touches
from robopolicy.errors import ConfigError, MissingCapability, RobopolicyError
from robopolicy.task import Task
from tests.envs.test_robosuite_env import TASKS, equal, suite_env

pytestmark = pytest.mark.sim


def suite_task(name: str, **config: object) -> Task:
    return Task(name="t", env={"name": "robosuite", "task": name, **config}, horizon=80)


@pytest.mark.parametrize(
    "name",
    ["Lift", "PickPlaceCan", "NutAssemblySquare", pytest.param("TwoArmLift", marks=pytest.mark.slow)],
)
def test_one_step_from_states_of_episodes(name: str) -> None:
    found = check_equality(suite_task(name), states=70, free=0, pairs=0)
    assert found["one_step"]["in_contact"] > 5
    assert found["one_step"]["largest_difference"] == {"qpos": 0.0, "qvel": 0.0, "observation": 0.0}
    assert found["one_step"]["rewards_or_successes_different"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_many_steps_and_whole_episodes(name: str) -> None:
    found = check_equality(suite_task(name), states=1000, free=2, pairs=2)
    assert set(found["one_step"]["largest_difference"].values()) == {0.0}
    assert set(found["free_motion"]["largest_difference"].values()) == {0.0}
    if "expert" in found:
        assert found["expert"]["outcomes_different"] == found["expert"]["lengths_different"] == 0


@pytest.mark.parametrize("config", [{"controller": "absolute"}, {"control_hz": 10}])
def test_other_settings_from_a_reset(config: dict[str, object]) -> None:
    fast, stock = (suite_env(observe="stock", engine=engine, **config) for engine in ("fast", "stock"))
    first, again = fast.reset(seed=4)[0], stock.reset(seed=4)[0]
    assert equal(first, again)
    rng, touched = np.random.default_rng(0), False
    action = np.zeros(7)
    for _ in range(40):
        action = 0.8 * action + 0.4 * rng.standard_normal(7)  # beyond the bounds at times: both must clip
        given = action.copy()
        if "controller" in config:  # down to the cube
            given = np.append(fast.simulation[1].xpos[fast.object_body], [np.pi, 0.0, 0.0, action[6]])
            given[:6] += 0.05 * action[:6]
        one, two = fast.step(given), stock.step(given)
        assert equal(one[0], two[0])
        assert one[1:] == two[1:]
        touched |= touches(fast)
        np.testing.assert_array_equal(fast.simulation[1].qpos, stock.simulation[1].qpos)
        np.testing.assert_array_equal(fast.simulation[1].qvel, stock.simulation[1].qvel)
    assert touched or "controller" not in config


def test_the_stock_engine_is_robosuite_itself() -> None:
    env = suite_env("PickPlaceCan", observe="stock", engine="stock")
    env.reset(seed=3)
    theirs = robosuite.make(
        "PickPlaceCan", robots="Panda", has_renderer=False, has_offscreen_renderer=False, renderer="mujoco",
        use_camera_obs=False, hard_reset=False, ignore_done=True, seed=0,
    )  # fmt: skip
    episode = int(np.random.default_rng(3).integers(2**63))
    theirs.rng.bit_generator.state = np.random.default_rng(episode).bit_generator.state
    theirs.reset()
    rng = np.random.default_rng(0)
    for _ in range(20):
        action = rng.uniform(-1, 1, 7)
        wanted, reward, _, _ = theirs.step(action)
        found, mine, *_ = env.step(action)
        assert mine == reward
        for key, value in found.items():
            np.testing.assert_array_equal(value, wanted[key].astype(np.float32))


def test_poses_in_robosuites_observations_are_older_than_its_joints() -> None:
    env = suite_env(observe="stock", engine="stock", proprioception=["robot0_joint_pos", "robot0_eef_pos"])
    env.reset(seed=0)
    model, data = env.simulation
    for _ in range(5):
        observation, *_ = env.step(np.full(7, 0.5))
    assert np.abs(observation["robot0_joint_pos"] - data.qpos[:7]).max() < 1e-6
    before = mujoco.MjData(model)
    before.qpos[:] = data.qpos
    mujoco.mj_kinematics(model, before)
    site = env.arm.site
    fresh = before.site_xpos[site].copy()
    mujoco.mj_integratePos(model, before.qpos, data.qvel, -model.opt.timestep)
    mujoco.mj_kinematics(model, before)
    lagging = observation["robot0_eef_pos"]
    assert np.abs(lagging - before.site_xpos[site]).max() < 1e-6  # one physics step ago
    assert np.abs(lagging - fresh).max() > 1e-4


def test_matrices_are_robosuites_to_the_last_bit() -> None:
    assert gives_robosuites_bits(7)
    assert gives_robosuites_bits(6)
    assert not gives_robosuites_bits(9)  # more than there is space for
    for wrong in (np.nan * np.eye(7), np.zeros((7, 7))):
        with pytest.raises(np.linalg.LinAlgError):
            operational_space(np.asfortranarray(wrong), np.ones((6, 7)), *work_space())


def test_nothing_that_a_step_saves_changes_what_it_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(envs.robosuite_control, "gives_robosuites_bits", lambda joints: False)
        theirs = suite_env("NutAssemblySquare")  # as where LAPACK went another way
    ours, without, stock = (
        suite_env("NutAssemblySquare", engine=engine) for engine in ("fast", "fast", "stock")
    )
    without.leave_out(*SAVINGS)
    every = (ours, without, theirs, stock)
    for env in every:
        env.reset(seed=2)
    rng = np.random.default_rng(0)
    for _ in range(15):
        action = rng.uniform(-1, 1, 7)
        results = [env.step(action) for env in every]
        for env, result in zip(every, results, strict=True):
            assert equal(result[0], results[0][0])
            assert result[1:] == results[0][1:]
            for name in ("qpos", "qvel", "qacc", "ctrl", "sensordata", "cfrc_int"):
                found, wanted = (getattr(e.simulation[1], name) for e in (env, stock))
                np.testing.assert_array_equal(found, wanted)
    assert np.abs(stock.simulation[1].sensordata).max() > 1.0  # force and torque at the wrist
    assert ours.simulation[0].opt.disableflags == stock.simulation[0].opt.disableflags
    with pytest.raises(MissingCapability, match="own speed"):
        stock.leave_out("sensors")


def test_a_simulation_that_diverges_says_so_and_keeps_its_sensors() -> None:
    env = suite_env()
    env.reset(seed=0)
    model, data = env.simulation
    data.site_xpos[env.arm.site] = np.nan  # the goal
    model.body_mass[:] = np.nan
    with pytest.raises(RobopolicyError, match="diverged"):
        env.step(np.zeros(7))
    assert model.opt.disableflags == 0


def test_disable_flags_are_those_of_the_model() -> None:
    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    flags = disable_flags(model)
    flags[0] |= int(mujoco.mjtDisableBit.mjDSBL_SENSOR)
    assert model.opt.disableflags == int(mujoco.mjtDisableBit.mjDSBL_SENSOR)


def test_environments_in_one_process_do_not_disturb_each_other() -> None:
    names = ("Lift", "NutAssemblySquare", "TwoArmLift")
    rng = np.random.default_rng(0)
    actions = [rng.uniform(-1, 1, 14) for _ in range(8)]
    alone = []
    for name in names:
        env = suite_env(name)
        env.reset(seed=1)
        size = env.robot_spec.action.size
        alone.append([env.step(action[:size])[0] for action in actions])
    together = [suite_env(name) for name in names]
    ball = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><freejoint/><geom size='.1'/></body></worldbody></mujoco>"
    )
    falling = mujoco.MjData(ball)
    for env in together:
        env.reset(seed=1)
    for number, action in enumerate(actions):
        for env, expected in zip(together, alone, strict=True):
            assert equal(env.step(action[: env.robot_spec.action.size])[0], expected[number])
            mujoco.mj_step(ball, falling, 2)
    steps = 2 * len(names) * len(actions)
    drop = 0.5 * 9.81 * ball.opt.timestep**2 * steps * (steps + 1)
    np.testing.assert_allclose(falling.qpos[2], -drop, rtol=1e-9)


def test_what_is_not_covered_runs_at_robosuites_speed_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        env = suite_env(controller="joint_delta", proprioception=["robot0_joint_pos"])
    assert env.engine == "stock"
    assert "JOINT_POSITION" in caplog.text
    before, _ = env.reset(seed=0)
    for _ in range(20):
        after, *_ = env.step(np.array([0.5, 0, 0, 0, 0, 0, 0, -1.0]))
    moved = after["robot0_joint_pos"] - before["robot0_joint_pos"]
    assert moved[0] > 0.05 > np.abs(moved[1:]).max()
    with pytest.raises(MissingCapability, match="joint_delta"):
        env.expert(0, {})
    with pytest.raises(ConfigError, match="no fast engine"):
        check_equality(suite_task("Lift", controller="joint_delta"), states=1, free=0, pairs=0)
    with pytest.raises(ConfigError, match="robosuite"):
        check_equality(Task(name="t", env={"name": "metaworld"}, horizon=9), states=1, free=0, pairs=0)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"impedance_mode": "variable_kp"}, "variable_kp"),
        ({"interpolation": "linear"}, "interpolates"),
        ({"uncouple_pos_ori": False}, "couples"),
        ({"input_max": 2.0}, "bounded"),
    ],
)
def test_each_reason_not_to_be_covered(change: dict[str, object], reason: str) -> None:
    settings = robosuite.load_composite_controller_config(robot="Panda")
    settings["body_parts"]["right"].update(change)
    suite = robosuite.make(
        "Lift", robots="Panda", controller_configs=settings, has_renderer=False, has_offscreen_renderer=False,
        use_camera_obs=False, renderer="mujoco",
    )  # fmt: skip
    assert reason in str(not_covered(suite))


def test_without_numba_robosuite_steps_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robosuite.macros, "ENABLE_NUMBA", False)
    assert suite_env().engine == "stock"
