from __future__ import annotations

import json

import numpy as np
import pytest

from robopolicy.rl.reward_scaling import CLIP, GAMMA, RewardScaling


def chunks(seed: int, length: int = 20, lanes: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rewards, ends and what happened, `[T, B]`; a lost chunk pays nothing and ends nothing."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(3, (length, lanes), p=[0.7, 0.2, 0.1])
    rewards = np.where(kind == 2, 0.0, rng.normal(2.0, 1.0, (length, lanes)))
    return rewards, kind == 1, kind != 2


def brute_deviation(rewards: np.ndarray, ended: np.ndarray, happened: np.ndarray) -> float:
    """Of the discounted return of every chunk that happened, counted from the start of its episode."""
    returns = []
    for lane in range(rewards.shape[1]):
        episode: list[float] = []
        for t in range(len(rewards)):
            if not happened[t, lane]:
                episode = []
                continue
            episode.append(rewards[t, lane])
            returns.append(sum(GAMMA**k * reward for k, reward in enumerate(reversed(episode))))
            if ended[t, lane]:
                episode = []
    return float(np.std(returns))


@pytest.mark.parametrize("seed", range(5))
def test_rewards_are_divided_by_the_deviation_of_all_returns_so_far(seed: int) -> None:
    rewards, ended, happened = chunks(seed)
    scaling = RewardScaling(3)
    for start, stop in ((0, 7), (7, 8), (8, 20)):
        part = slice(start, stop)
        found = scaling(rewards[part], ended[part], happened[part])
        deviation = brute_deviation(rewards[:stop], ended[:stop], happened[:stop])
        assert scaling.deviation == pytest.approx(deviation, rel=1e-12)
        np.testing.assert_allclose(found, rewards[part] / deviation, rtol=1e-12)
        assert np.abs(found).max() < CLIP


def test_a_return_begins_anew_where_an_episode_ended_or_was_lost() -> None:
    paid, no = np.ones((1, 3)), np.zeros((1, 3), bool)
    scaling = RewardScaling(3)
    scaling(paid, np.array([[True, False, False]]), ~no)
    assert scaling.returns.tolist() == [0, 1, 1]
    scaling(paid * [[1, 0, 1]], no, np.array([[True, False, True]]))
    assert scaling.returns.tolist() == [1, 0, GAMMA + 1]
    assert scaling.count == 5  # five chunks happened


def test_a_lost_lane_does_not_change_the_deviation() -> None:
    rewards, ended, happened = chunks(0)
    never = np.zeros((20, 1), bool)
    alone, beside = RewardScaling(3), RewardScaling(4)
    alone(rewards, ended, happened)
    beside(np.hstack([rewards, never]), np.hstack([ended, never]), np.hstack([happened, never]))
    assert beside.deviation == pytest.approx(alone.deviation, rel=1e-12)
    assert beside.count == alone.count


def test_before_returns_differ_rewards_stay_as_they_are() -> None:
    scaling, ended = RewardScaling(2), np.ones((4, 2), bool)
    assert scaling.deviation == 1.0
    assert scaling(np.full((4, 2), 3.0), ended, ended).tolist() == [[3.0, 3.0]] * 4


def test_what_is_far_out_is_clipped() -> None:
    rewards, ended = np.zeros((500, 1)), np.ones((500, 1), bool)
    rewards[[7, 90]] = [[5.0], [-5.0]]
    found = RewardScaling(1)(rewards, ended, ended)
    assert found[[7, 90], 0].tolist() == [CLIP, -CLIP]
    assert 5.0 / brute_deviation(rewards, ended, ended) > CLIP
    assert not np.delete(found, [7, 90]).any()


def test_restored_it_goes_on_exactly() -> None:
    rewards, ended, happened = chunks(1)
    whole, first, second = RewardScaling(3), RewardScaling(3), RewardScaling(3)
    expected = [whole(rewards[p], ended[p], happened[p]) for p in (slice(0, 11), slice(11, 20))][1]
    first(rewards[:11], ended[:11], happened[:11])
    assert first.returns.any()
    second.restore(json.loads(json.dumps(first.state())))
    assert np.array_equal(second(rewards[11:], ended[11:], happened[11:]), expected)
    assert second.state() == whole.state()
