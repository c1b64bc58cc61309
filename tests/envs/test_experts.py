"""The scripted experts: they solve their tasks, each in several ways, reproducibly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from envs.experts import STRATEGIES
from robopolicy.env import RobotEnv, make_env
from robopolicy.errors import ConfigError
from robopolicy.seeding import episode_seeds
from robopolicy.task import Task

pytestmark = pytest.mark.sim
LONGEST = {"Lift": 80, "PickPlaceCan": 280, "NutAssemblySquare": 220}


def make(name: str, **config: Any) -> RobotEnv:
    return make_env(Task(name="t", env={"name": "robosuite", "task": name, **config}, horizon=9))


def run(env: RobotEnv, seed: int, steps: int, settings: dict[str, Any] | None = None) -> np.ndarray | None:
    """The actions up to the first success, or None."""
    observation, _ = env.reset(seed=seed)
    expert = env.expert(seed, settings or {})
    actions = []
    for _ in range(steps):
        actions.append(expert.act(observation))
        observation, _, _, _, info = env.step(actions[-1])
        if info["success"]:
            return np.array(actions)
    return None


@pytest.mark.parametrize("name", LONGEST)
@pytest.mark.parametrize("mode", STRATEGIES)
def test_every_strategy_solves_every_task(name: str, mode: str) -> None:
    env = make(name)
    for seed in episode_seeds("collect", 2):
        actions = run(env, seed, LONGEST[name], {"mode": mode})
        assert actions is not None
        assert actions.dtype == np.float32
        assert np.abs(actions).max() <= 1.0
        # Saturated commands are hard to imitate: what is lost in them cannot be seen.
        assert np.mean(np.abs(actions[:, :6]).max(axis=1) > 0.95) < 0.2


def test_the_absolute_controller_is_served_too() -> None:
    env = make("Lift", controller="absolute")
    assert all(run(env, seed, LONGEST["Lift"]) is not None for seed in episode_seeds("collect", 3))


def test_one_seed_is_one_demonstration_and_seeds_differ() -> None:
    env = make("Lift")
    first, again = (run(env, 0, 80) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    env.reset(seed=0)
    starts = [env.expert(seed, {"noise": 0.0}).act({}) for seed in range(20)]
    assert len({tuple(np.round(start, 3)) for start in starts}) > 10


def test_strategies_go_different_ways() -> None:
    env = make("Lift")
    heights = {}
    for mode in STRATEGIES:
        env.reset(seed=4)
        expert = env.expert(0, {"mode": mode, "noise": 0.0, "pauses": 0.0})
        path = [env.step(expert.act({}))[0]["robot0_eef_pos"] for _ in range(14)]
        heights[mode] = np.array(path)[-1]
    places = list(heights.values())
    assert min(np.linalg.norm(a - b) for i, a in enumerate(places) for b in places[:i]) > 0.01


def test_noise_disturbs_and_is_recovered_from() -> None:
    env = make("Lift")
    quiet, shaky = (run(env, 1, 150, {"noise": noise, "pauses": 0.0}) for noise in (0.0, 0.3))
    assert quiet is not None
    assert shaky is not None
    roughness = [np.abs(np.diff(actions[:, :3], axis=0)).mean() for actions in (quiet, shaky)]
    assert roughness[1] > 3 * roughness[0]


def test_settings_are_checked() -> None:
    env = make("Lift")
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="direct"):
        env.expert(0, {"mode": "sideways"})
    with pytest.raises(ConfigError, match="noise"):
        env.expert(0, {"noise": 2.0})
    with pytest.raises(ConfigError, match="pauses"):
        env.expert(0, {"pause": 1})
