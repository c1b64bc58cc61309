"""Meta-World: any task by name, drawn from the seed alone, solved by the package's own policies."""

from __future__ import annotations

import numpy as np
import pytest

from envs.check import assert_ok
from robopolicy.env import RobotEnv, make_env
from robopolicy.errors import ConfigError, SpecMismatch
from robopolicy.seeding import episode_seeds
from robopolicy.task import Task

pytest.importorskip("metaworld", reason="Meta-World is the extra robopolicy[metaworld]")
pytestmark = pytest.mark.sim


def make(name: str, **settings: float) -> RobotEnv:
    return make_env(Task(name="t", env={"name": "metaworld", "task": name, **settings}, horizon=9))


@pytest.mark.parametrize("name", ["reach-v3", "door-open-v3", "drawer-open-v3", "peg-insert-side-v3"])
def test_contract(name: str) -> None:
    assert_ok(make(name))


def test_the_goal_is_visible_and_varies() -> None:
    env = make("reach-v3")
    goals = []
    for seed in range(8):
        observation, _ = env.reset(seed=seed)
        goals.append(observation["object-state"][-3:])
        np.testing.assert_allclose(goals[-1], env._env._target_pos, atol=1e-6)  # type: ignore[attr-defined]
    assert np.std(goals, axis=0).min() > 0.01


def test_the_rate_is_that_of_the_simulation() -> None:
    env = make("reach-v3")
    assert env.robot_spec.control_hz == 80.0
    env.reset(seed=0)
    before = env._env.data.time  # type: ignore[attr-defined]
    for _ in range(80):
        env.step(np.zeros(4))
    assert env._env.data.time - before == pytest.approx(1.0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["reach-v3", "push-v3", "button-press-topdown-v3", "window-open-v3"])
def test_experts_solve_tasks(name: str) -> None:
    env = make(name)
    lengths = []
    for seed in episode_seeds("collect", 3):
        observation, _ = env.reset(seed=seed)
        expert = env.expert(seed, {})
        for step in range(300):
            action = expert.act(observation)
            assert action.dtype == np.float32
            assert np.abs(action[:3]).max() <= 1.0
            observation, _, _, _, info = env.step(action)
            if info["success"]:
                lengths.append(step)
                break
    assert len(lengths) == 3


def test_long_episodes_are_allowed() -> None:
    env = make("reach-v3")
    env.reset(seed=0)
    for _ in range(510):  # the package stops at 500
        _, _, terminated, truncated, _ = env.step(np.zeros(4))
    assert not terminated
    assert not truncated


def test_corner_cameras_stand_upright() -> None:
    env = make("reach-v3")
    env.reset(seed=0)
    data, model = env._env.data, env._env.model  # type: ignore[attr-defined]
    for camera in ("corner", "corner2", "corner3"):
        assert data.cam_xmat[model.camera(camera).id].reshape(3, 3)[2, 1] > 0  # its "up" points up


def test_misuse_is_explained() -> None:
    with pytest.raises(ConfigError, match="reach-v3"):
        make("reach")
    env = make("reach-v3")
    with pytest.raises(ConfigError, match="slowest"):
        env.expert(0, {"slowest": 0.0})
    env.reset(seed=0)
    with pytest.raises(SpecMismatch, match="4 finite"):
        env.step(np.zeros(7))


def test_from_a_state_an_episode_goes_on_exactly() -> None:
    env = make("soccer-v3")
    env.reset(seed=3)
    actions = np.random.default_rng(0).uniform(-1, 1, (20, 4)).astype(np.float32)
    for action in actions[:5]:
        env.step(action)
    state = env.get_state()
    first = [env.step(action)[0] for action in actions[5:]]
    seen = env.set_state(state)
    again = [env.step(action)[0] for action in actions[5:]]
    for one, other in zip(first, again, strict=True):
        assert all(np.array_equal(one[key], other[key]) for key in one)
    assert np.array_equal(seen["robot-state"][4:8], env.set_state(state)["robot-state"][4:8])
    with pytest.raises(SpecMismatch, match=r"A state is \[\d+\] here, got \[3\]"):
        env.set_state(np.zeros(3))


def test_the_range_of_objects_and_goal_can_be_widened() -> None:
    env = make("push-v3")

    def places(**options: float) -> np.ndarray:
        seen = [env.reset(seed=s, options=options)[0]["object-state"] for s in range(40)]
        return np.array([[*o[0:3], *o[-3:]] for o in seen])  # the puck and its goal

    usual, none, wider = places(), places(object_range=0.0), places(object_range=1.0)
    assert np.array_equal(usual, none)
    half = np.array([0.1, 0.05, 0.1, 0.05])
    away = [np.abs(seen[:, [0, 1, 3, 4]] - (0.0, 0.65, 0.0, 0.85)).max(0) for seen in (usual, wider)]
    assert (away[0] <= half + 1e-3).all()
    assert (away[1] > 1.5 * half).all()
    assert (away[1] <= 2 * half + 1e-3).all()
    assert np.allclose(wider[:, [2, 5]].max(0), usual[:, [2, 5]].max(0), atol=2e-3)  # on the table still
    assert env.reset_options == {"object_range"}


def test_a_task_can_have_a_wider_range_of_its_own() -> None:
    usual, twice = make("push-v3"), make("push-v3", placement=2.0)
    for seed in range(3):
        wide, widened = twice.reset(seed=seed)[0], usual.reset(seed=seed, options={"object_range": 1.0})[0]
        assert np.array_equal(wide["object-state"], widened["object-state"])
        assert not np.array_equal(wide["object-state"], usual.reset(seed=seed)[0]["object-state"])
    with pytest.raises(ConfigError, match="placement must be at least 0, got -1"):
        make("push-v3", placement=-1.0)


@pytest.mark.parametrize("name", ["window-open-v3", "lever-pull-v3", "drawer-open-v3", "door-lock-v3"])
def test_a_reset_shows_things_where_they_are(name: str) -> None:
    env = make(name)
    for seed in range(3):
        first, _ = env.reset(seed=seed)
        after, *_ = env.step(np.zeros(4, np.float32))
        np.testing.assert_allclose(first["object-state"], after["object-state"], atol=2e-3)
