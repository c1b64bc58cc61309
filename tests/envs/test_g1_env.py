"""The G1 tasks: the contract, the robot they share with the driver, success rules, experts, exact replay."""

from __future__ import annotations

import functools

import mujoco
import numpy as np
import pytest

from envs import g1_model
from envs.check import assert_ok
from envs.g1_env import LIFTED, NEAR, G1Env
from envs.g1_expert import Arms, Goal
from hardware.spec import RobotSpec
from robopolicy.env import make_env
from robopolicy.errors import ConfigError, RobopolicyError, SpecMismatch
from robopolicy.task import Task

pytestmark = pytest.mark.sim
HORIZON = 180


@functools.cache
def shared(task: str) -> G1Env:
    return make(task)


def make(task: str, cameras: tuple[str, ...] = ()) -> G1Env:
    env = make_env(
        Task(
            name=f"g1_{task}",
            env={"name": "g1", "task": task},
            horizon=HORIZON,
            cameras=cameras,
            image_size=64,
        )
    )
    assert isinstance(env, G1Env)
    return env


def bodies_in_contact(env: G1Env) -> set[frozenset[str]]:
    model, data = env.g1.model, env.simulation
    return {
        frozenset(model.body(model.geom_bodyid[geom]).name for geom in contact.geom)
        for contact in data.contact
    }


@pytest.mark.parametrize("task", ["reach", "box"])
def test_it_keeps_the_contract(task: str) -> None:
    assert_ok(make(task, ("front",)), steps=8)


def test_the_robot_is_the_drivers() -> None:
    spec, g1 = RobotSpec.load("g1_sim"), shared("reach").g1
    upper = [spec.index(name) for name in g1_model.JOINTS]
    assert tuple(spec.names[12:]) == g1_model.JOINTS
    np.testing.assert_array_equal([g1_model.gains(name) for name in g1_model.JOINTS], spec_gains(spec, upper))
    np.testing.assert_array_equal(g1.kp, spec.array("kp")[upper])
    np.testing.assert_array_equal(g1.model.actuator_biasprm[:, 2], -spec.array("kd")[upper])
    np.testing.assert_array_equal(g1.model.actuator_forcerange[:, 1], spec.array("effort")[upper])
    np.testing.assert_allclose(g1.lower, spec.array("lower")[upper])
    np.testing.assert_allclose(g1.upper, spec.array("upper")[upper])
    assert [g1_model.HOME[name] for name in spec.names] == spec.array("home").tolist()
    assert [g1.model.joint(int(g1.model.actuator_trnid[i, 0])).name for i in range(17)] == list(
        g1_model.JOINTS
    )


def spec_gains(spec: RobotSpec, where: list[int]) -> np.ndarray:
    return np.stack([spec.array("kp")[where], spec.array("kd")[where]], axis=1)


@pytest.mark.parametrize("task", ["reach", "box"])
def test_the_held_legs_stand_as_the_whole_robot_does(task: str) -> None:
    whole = mujoco.MjModel.from_xml_path(str(g1_model.ASSET))
    data, held = mujoco.MjData(whole), shared(task)
    for name, angle in g1_model.HOME.items():
        data.qpos[whole.joint(name).qposadr[0]] = angle
    mujoco.mj_kinematics(whole, data)
    held.reset(seed=0)
    for body in ("left_ankle_roll_link", "right_ankle_roll_link", "left_knee_link"):
        theirs = held.simulation.body(body).xpos - held.g1.origin
        np.testing.assert_allclose(theirs, data.body(body).xpos - data.body("pelvis").xpos, atol=1e-12)
    assert float(held.simulation.site("left_foot").xpos[2]) == pytest.approx(0.0, abs=1e-4)


def test_the_first_command_holds_the_posture() -> None:
    env = shared("reach")
    env.reset(seed=1)
    before = env.posture
    for _ in range(10):
        env.step(env.command)
    np.testing.assert_allclose(env.posture, before, atol=1e-3)


def test_a_servo_that_is_told_its_own_posture_yields_to_gravity() -> None:
    env = shared("reach")
    env.reset(seed=1)
    before = env.posture
    for _ in range(20):
        env.step(before)
    assert 0.01 < np.abs(env.posture - before).max() < 0.1


def test_it_moves_as_the_whole_robot_does_under_a_2_khz_joint_controller() -> None:
    env = shared("reach")
    robot, spec = RobotSpec.load("g1_sim"), mujoco.MjSpec.from_file(str(g1_model.ASSET))
    spec.delete(spec.joint("floating_base_joint"))
    spec.option.timestep = 5e-4
    whole = spec.compile()
    data, upper = mujoco.MjData(whole), slice(12, 29)
    kp, kd, wanted = robot.array("kp"), robot.array("kd"), robot.array("home")
    observation, _ = env.reset(seed=5)
    expert = env.expert(5, {"pauses": 0.0})
    data.qpos[:] = wanted
    data.qpos[upper] = env.posture
    last, apart = env.command, []
    for _ in range(40):
        action = expert.act(observation)
        observation = env.step(action)[0]
        for piece in range(1, 101):
            wanted[upper] = last + (action - last) * piece / 100
            data.ctrl[:] = kp * (wanted - data.qpos) - kd * data.qvel
            mujoco.mj_step(whole, data)
        last = action
        apart.append(np.abs(env.posture - data.qpos[upper]).max())
    assert max(apart) < 0.02
    assert np.abs(env.posture - env.g1.home).max() > 0.3


def test_kinematics_are_inverted() -> None:
    env = shared("reach")
    rng, arms = np.random.default_rng(0), Arms(env.g1)
    for seed in range(5):
        env.reset(seed=seed)
        wanted = env.posture + rng.uniform(-0.3, 0.3, 17)
        goal = Goal(*pose_of(env, wanted))
        found = arms.solve(env.posture, goal, iterations=60)
        places, pointing = pose_of(env, found)
        np.testing.assert_allclose(places, goal.places, atol=1e-3)
        assert goal.pointing is not None
        assert (pointing * goal.pointing).sum(1).min() > np.cos(0.02)


def pose_of(env: G1Env, posture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    state = env.get_state()
    env.simulation.qpos[env.g1.qpos] = posture
    mujoco.mj_kinematics(env.g1.model, env.simulation)
    found = env.hands, env.pointing
    env.set_state(state)
    return found


def test_reach_succeeds_where_the_hands_are_and_nowhere_else() -> None:
    env = shared("reach")
    env.reset(seed=2)
    hands, command = env.hands + env.g1.origin, env.command
    for away, success in ((0.0, True), (0.9 * NEAR, True), (1.1 * NEAR, False)):
        env.simulation.mocap_pos[:] = hands
        env.simulation.mocap_pos[1, 1] += away
        *_, reward, _, _, info = env.step(command)
        assert info["success"] is success
        assert reward == float(success)


def test_a_box_that_nobody_holds_is_not_lifted_and_one_that_fell_ends_the_episode() -> None:
    env = shared("box")
    env.reset(seed=0)
    pose = env.simulation.joint("box").qpos
    pose[2] += LIFTED + 0.02
    _, _, terminated, _, info = env.step(env.command)
    assert not info["success"]
    assert not terminated
    pose[:3] = (1.5, 0.0, 0.5)
    assert env.step(env.command)[2]


@pytest.mark.parametrize("task", ["reach", "box"])
def test_the_expert_succeeds_gently(task: str) -> None:
    env = shared(task)
    for seed in range(6):
        observation, _ = env.reset(seed=seed)
        expert = env.expert(seed, {})
        commands, successes = [env.command], []
        for _ in range(HORIZON):
            action = expert.act(observation)
            observation, _, _, _, info = env.step(action)
            commands.append(action.astype(np.float64))
            successes.append(info["success"])
            allowed = {frozenset({"table", "box"})}
            touched = {pair for pair in bodies_in_contact(env) if "box" not in pair}
            assert not touched - allowed, touched
            if sum(successes) > 10:
                break
        assert all(successes[-10:])
        assert np.abs(np.diff(commands, axis=0)).max() * env.robot_spec.control_hz < 6.0
        assert expert.act(observation).dtype == np.float32


def test_a_box_that_slipped_is_taken_again() -> None:
    env = shared("box")
    observation, _ = env.reset(seed=1)
    resting = env.simulation.joint("box").qpos.copy()
    expert, lifted = env.expert(1, {"pauses": 0.0}), []
    for _ in range(300):
        observation, _, _, _, info = env.step(expert.act(observation))
        lifted.append(info["success"])
        if info["success"] and sum(lifted) == 20:
            env.simulation.joint("box").qpos[:] = resting
            env.simulation.joint("box").qvel[:] = 0.0
    first = lifted.index(True)
    assert all(lifted[first : first + 20])
    assert not any(lifted[first + 20 : first + 60])
    assert all(lifted[-20:])


def test_demonstrations_differ() -> None:
    env = shared("reach")
    observation, _ = env.reset(seed=0)
    actions = [env.expert(seed, {"noise": 0.0}).act(observation) for seed in (1, 2)]
    assert not np.allclose(*actions, atol=1e-6)


@pytest.mark.parametrize("task", ["reach", "box"])
def test_a_state_is_stepped_on_from_exactly(task: str) -> None:
    env = shared(task)
    observation, _ = env.reset(seed=3)
    expert = env.expert(3, {})
    for _ in range(60):
        observation = env.step(expert.act(observation))[0]
    state = env.get_state()
    actions = [expert.act(observation) for _ in range(10)]
    first = [env.step(action)[0] for action in actions]
    env.reset(seed=4)
    again = env.set_state(state)
    second = [env.step(action)[0] for action in actions]
    for key in observation:
        np.testing.assert_array_equal(again[key], observation[key])
    for one, two in zip(first, second, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], two[key])
    with pytest.raises(SpecMismatch, match=r"got \[3\]"):
        env.set_state(np.zeros(3))


def test_the_ranges_can_be_widened() -> None:
    for task, key in (("reach", "left_target"), ("box", "box_position")):
        env = shared(task)
        seen = [
            np.array([env.reset(seed=s, options={"object_range": wider})[0][key] for s in range(30)])
            for wider in (0.0, 1.0)
        ]
        np.testing.assert_allclose(np.ptp(seen[1], axis=0)[:2], 2 * np.ptp(seen[0], axis=0)[:2], rtol=1e-3)


def test_pictures_show_the_targets() -> None:
    env = make("reach", ("front",))
    observation, _ = env.reset(seed=0)
    picture = observation["front_image"].astype(int)
    assert (picture[..., 2] - picture[..., 0] > 60).sum() > 10
    assert env.render_frame("side", 96).shape == (96, 96, 3)
    with pytest.raises(ConfigError, match="front, side"):
        env.render_frame("top")
    env.close()


def test_what_it_refuses() -> None:
    env = make("reach")
    with pytest.raises(RobopolicyError, match="reset"):
        env.step(np.zeros(17))
    env.reset(seed=0)
    with pytest.raises(SpecMismatch, match="17 finite numbers"):
        env.step(np.full(17, np.nan))
    with pytest.raises(ConfigError, match="noise in"):
        env.expert(0, {"noise": 1.0})
    with pytest.raises(ConfigError, match=r"reach.*box|box.*reach"):
        make("walk")
