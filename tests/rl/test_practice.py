from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robopolicy.errors import CheckpointError
from robopolicy.learning.nan_guard import NotFiniteError
from robopolicy.rl.convention import ConventionConfig
from robopolicy.rl.practice import Practice
from robopolicy.seeding import BLOCK_SIZE, episode_seeds
from robopolicy.vector import LaneVectorEnv
from tests.rl import fragile_env
from tests.toy_env import toy_task


def make(envs: LaneVectorEnv, offset: int = 0, **convention: Any) -> Practice:
    return Practice(envs, ConventionConfig(**convention), obs_horizon=2, action_horizon=4, offset=offset)


def chunks(count: int, lanes: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, lanes, 4, 2)).astype(np.float32)


def test_restored_in_the_middle_of_episodes_it_goes_on_exactly() -> None:
    actions = chunks(12, 3)
    one = make(LaneVectorEnv(toy_task(horizon=18), 3, chunk=4))
    for chunk in actions[:7]:
        one.step(chunk)
    state = json.loads(json.dumps(one.state()))
    two = make(LaneVectorEnv(toy_task(horizon=18), 3, chunk=4), offset=99)
    two.restore(state)
    assert two.env_steps == one.env_steps
    assert (one.runner.time > 0).any()
    for chunk in actions[7:]:
        for key, value in one.view.observation.items():
            np.testing.assert_array_equal(value, two.view.observation[key])
        a, b = one.step(chunk), two.step(chunk)
        np.testing.assert_array_equal(a.rewards, b.rewards)
        np.testing.assert_array_equal(a.transition.step.truncated, b.transition.step.truncated)
    assert one.statistics() == two.statistics()
    assert one.used_seeds == two.used_seeds == episode_seeds("practice", len(one.used_seeds))


def test_another_number_of_lanes_cannot_go_on() -> None:
    state = make(LaneVectorEnv(toy_task(), 3, chunk=4)).state()
    with pytest.raises(CheckpointError, match="in 3 lanes; lanes=2 cannot"):
        make(LaneVectorEnv(toy_task(), 2, chunk=4)).restore(state)


def test_statistics_are_of_whole_episodes() -> None:
    practice = make(LaneVectorEnv(toy_task(horizon=10, env={"reach": 9.0}), 2, chunk=4, success_hold=-1))
    for chunk in chunks(3, 2):
        practice.step(chunk)
    found = practice.statistics()
    assert found["practice_return"] == found["practice_length"] == 10
    assert found["practice_success"] == 1
    assert found["practice_episodes"] == 2
    assert practice.statistics() == {}
    assert practice.env_steps == 20


def test_after_the_last_seed_of_the_block_comes_the_first() -> None:
    practice = make(LaneVectorEnv(toy_task(), 3, chunk=4), offset=BLOCK_SIZE - 2)
    assert practice.used_seeds == practice.runner.seeds.tolist()
    assert practice.used_seeds == [
        *episode_seeds("practice", 2, BLOCK_SIZE - 2),
        *episode_seeds("practice", 1),
    ]


def test_a_dead_worker_costs_its_episodes_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fragile_env.MARK, str(tmp_path / "died"))
    envs = LaneVectorEnv(toy_task(horizon=8, env={"name": "toy_dying_once"}), 4, workers=2, chunk=4)
    practice = make(envs)
    first = practice.step(chunks(2, 4)[0])
    with pytest.warns(UserWarning, match="2 episodes are lost"):
        second = practice.step(chunks(2, 4)[1])
    assert not first.lost.any()
    assert second.lost.tolist() == [False, True, False, True]
    assert second.steps.tolist() == [4, 0, 4, 0]
    assert not second.rewards[second.lost].any()
    assert practice.runner.seeds.tolist() == episode_seeds("practice", 4, 4)
    assert practice.env_steps == 4 * 4 + 2 * 4
    assert practice.lost_episodes == 2
    assert practice.statistics()["practice_episodes"] == 2
    practice.step(chunks(1, 4)[0])
    envs.close()


def test_a_reward_that_is_not_a_number_names_its_episode() -> None:
    envs = LaneVectorEnv(toy_task(env={"name": "toy_nan_reward"}), 4, chunk=4)
    practice = make(envs, reward="env")
    practice.step(chunks(1, 4)[0])
    with pytest.raises(
        NotFiniteError, match=r"task toy .*episode seed 1000002, one of the 4 steps before step 8"
    ):
        practice.step(chunks(1, 4)[0])
