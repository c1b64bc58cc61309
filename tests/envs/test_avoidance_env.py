"""Obstacle avoidance: the contract, its expert's routes, exact replay, pictures."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from envs.avoidance_env import GOAL, OBSTACLE_RADIUS, PUSHER_RADIUS, AvoidanceEnv
from envs.check import assert_ok
from robopolicy.env import make_env
from robopolicy.errors import ConfigError, SpecMismatch
from robopolicy.task import Task

pytestmark = pytest.mark.sim


def make(cameras: tuple[str, ...] = (), **config: Any) -> AvoidanceEnv:
    env = make_env(
        Task(
            name="avoidance", env={"name": "avoidance", **config}, horizon=150, cameras=cameras, image_size=64
        )
    )
    assert isinstance(env, AvoidanceEnv)
    return env


def demonstrate(env: AvoidanceEnv, seed: int, **settings: Any) -> tuple[dict[str, np.ndarray], bool, str]:
    observation, _ = env.reset(seed=seed)
    expert: Any = env.expert(seed, settings)
    seen: list[dict[str, np.ndarray]] = []
    for _ in range(150):
        seen.append(observation)
        observation, _, terminated, _, info = env.step(expert.act(observation))
        if terminated or info["success"]:
            break
    return {key: np.stack([row[key] for row in seen]) for key in seen[0]}, info["success"], expert.route


def test_it_keeps_the_contract() -> None:
    assert_ok(make(("top",)), steps=60)


def test_the_expert_takes_every_route_it_is_asked_for() -> None:
    env = make()
    assert len(env.routes) == 24
    for route in env.routes:
        episode, success, asked = demonstrate(env, 5, routes=[route], noise=0.0)
        assert success
        assert env.route(episode) == asked == route


def test_the_expert_draws_its_route_and_seldom_fails() -> None:
    env = make()
    outcomes = [demonstrate(env, seed) for seed in range(60)]
    assert sum(success for _, success, _ in outcomes) >= 57
    assert len({route for _, _, route in outcomes}) > 15
    assert all(env.route(episode) == route for episode, success, route in outcomes if success)


def test_touching_an_obstacle_ends_the_episode_without_success() -> None:
    env = make(start=0.0, shift=0.0)
    env.reset(seed=0)
    for _ in range(60):
        observation, reward, terminated, _, info = env.step(np.array([0.0, 1.0], np.float32))
        if terminated:
            break
    assert terminated
    assert not info["success"]
    assert reward == 0
    gap = np.linalg.norm(observation["position"] - observation["obstacles"][:2])
    assert abs(gap - OBSTACLE_RADIUS - PUSHER_RADIUS) < 0.005
    assert env.route({key: value[None] for key, value in observation.items()}) is None


def test_a_wide_detour_reaches_the_goal() -> None:
    env = make()
    env.reset(seed=0)
    infos = [env.step(np.array(action))[4] for action in [(1.0, 0.0)] * 15 + [(0.0, 1.0)] * 45]
    assert infos[-1]["success"]
    assert env.target[1] > GOAL


def test_a_state_is_stepped_on_from_exactly() -> None:
    env = make()
    env.reset(seed=3)
    actions = np.random.default_rng(0).uniform(-1, 1, (20, 2))
    for action in actions[:8]:
        env.step(action)
    state = env.get_state()
    first = [env.step(action)[0] for action in actions[8:]]
    env.reset(seed=4)
    env.set_state(state)
    second = [env.step(action)[0] for action in actions[8:]]
    for one, two in zip(first, second, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], two[key])
    with pytest.raises(SpecMismatch, match=r"got \[3\]"):
        env.set_state(np.zeros(3))


def test_the_range_of_the_obstacles_can_be_widened() -> None:
    env = make(shift=0.01)
    shifts = {}
    for wider in (0.0, 3.0):
        starts = [env.reset(seed=s, options={"object_range": wider})[0]["obstacles"][0] for s in range(40)]
        shifts[wider] = np.abs(starts).max()
    assert shifts[0.0] <= 0.01 < 0.03 < shifts[3.0] <= 0.04


def test_the_view_from_above_shows_where_things_are() -> None:
    env = make(("top",))
    seen = []
    for seed, steps in itertools.product((0, 1), (0, 5)):
        observation, _ = env.reset(seed=seed)
        for _ in range(steps):
            observation = env.step(np.array([0.5, 0.2]))[0]
        picture = observation["top_image"].astype(float)
        blue = np.clip(picture[..., 2] - picture[..., 0] - 60, 0, None)
        rows, columns = (np.arange(64) + 0.5 for _ in range(2))
        centre = np.array([(blue.sum(0) * columns).sum(), (blue.sum(1) * rows).sum()]) / blue.sum()
        metres = centre / 64 * 0.92 * (1, -1) + (-0.46, 0.85)
        np.testing.assert_allclose(metres, observation["position"], atol=0.012)
        seen.append(picture)
    assert not np.array_equal(seen[0], seen[1])
    assert env.render_frame("top", 128).shape == (128, 128, 3)
    with pytest.raises(ConfigError, match="side, top"):
        env.render_frame("front")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"routes": ["030"]}, "020"), ({"noise": 0.5}, "noise in"), ({"fast": 1}, "noise")],
)
def test_settings_of_the_expert_that_cannot_work(settings: dict[str, Any], message: str) -> None:
    env = make()
    env.reset(seed=0)
    with pytest.raises(ConfigError, match=message):
        env.expert(0, settings)


def test_absolute_actions_are_where_delta_actions_lead() -> None:
    """The same demonstration told as positions; a far one is approached by 2 cm a step."""
    steps, places = make(), make(controller="absolute")
    seen, _ = steps.reset(seed=3)
    places.reset(seed=3)
    expert: Any = steps.expert(3, {})
    for _ in range(40):
        seen, *_ = steps.step(expert.act(seen))
        told, *_ = places.step(steps.target.astype(np.float32))
        np.testing.assert_allclose(told["position"], seen["position"], atol=1e-5)
    before = places.target
    places.step(np.array([-0.3, before[1]], np.float32))
    np.testing.assert_allclose(places.target, before - [0.02, 0.0], atol=1e-6)
    assert places.robot_spec.action.holds_position
    assert_ok(places, steps=30)


def test_the_expert_speaks_of_positions_where_asked() -> None:
    outcomes = [demonstrate(make(controller="absolute"), seed) for seed in range(5)]
    assert all(success for _, success, _ in outcomes)
