"""What recorded episodes are worth, against sums written by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError, DataError
from robopolicy.rl.convention import ConventionConfig
from robopolicy.values.data import Transitions, chunks_of, split
from tests.toy_env import toy_spec, toy_task

GAMMA = 0.9
TASK = toy_task(horizon=9, success_hold=2)
SUCCESS = ConventionConfig(terminate=True)
COST = ConventionConfig(reward="cost", terminate=True)


def store(tmp_path: Path, lengths: list[int], wins: list[bool], extra: Any = None) -> EpisodeStore:
    """Positions tell the step, actions the episode."""
    made = EpisodeStore.create(tmp_path / "a.zarr", toy_spec(), task=TASK.to_dict(), extra=extra)
    for number, (length, win) in enumerate(zip(lengths, wins, strict=True)):
        steps = np.arange(length, dtype=np.float32)[:, None].repeat(2, 1)
        arrays: dict[str, np.ndarray] = {
            "position": steps,
            "goal": steps,
            "action": np.full((length, 2), number / 10, np.float32),
        }
        if extra:
            arrays |= {"reward": np.ones(length), "success": (np.arange(length) >= 3).astype(float) * win}
        made.append(arrays, seed=number, success=win)
    return made


def test_a_success_ends_where_it_was_first_reached(tmp_path: Path) -> None:
    # 6 steps with a hold of 2: the steps of index 3, 4 and 5 succeeded.
    found = chunks_of(store(tmp_path, [6], [True]), SUCCESS, action_horizon=2, gamma=GAMMA)
    assert found.start.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(found.reward, [0, 0, GAMMA, 1])
    np.testing.assert_allclose(found.discount, [GAMMA**2, GAMMA**2, 0, 0])
    np.testing.assert_allclose(found.returns, [GAMMA**3, GAMMA**2, GAMMA, 1])
    assert found.following.tolist() == [2, 3, 4, 4]


def test_a_failure_at_the_horizon_goes_on_and_ends_without_a_bonus(tmp_path: Path) -> None:
    made = store(tmp_path, [9, 9], [False, True])
    for convention, each in ((SUCCESS, 0.0), (COST, -1.0)):
        found = chunks_of(made, convention, action_horizon=2, gamma=GAMMA)
        first = found.episode == 0
        assert first.sum() == 9
        np.testing.assert_allclose(found.discount[first], [GAMMA**2] * 8 + [GAMMA])
        np.testing.assert_allclose(found.returns[first], each / (1 - GAMMA))
        assert found.following[first][-2:].tolist() == [8, 8]  # its last observation stands in
        assert (found.returns[~first] > each / (1 - GAMMA)).all()


def test_falling_off_is_worth_no_more_than_failing_slowly(tmp_path: Path) -> None:
    found = chunks_of(store(tmp_path, [4], [False]), COST, action_horizon=3, gamma=GAMMA)
    np.testing.assert_allclose(found.returns, -1 / (1 - GAMMA))
    np.testing.assert_allclose(found.discount, [GAMMA**3, 0, 0, 0])
    np.testing.assert_allclose(found.reward[1:], -1 / (1 - GAMMA))  # for ever, though the episode ended
    assert found.reward[0] == pytest.approx(-(1 + GAMMA + GAMMA**2))


def test_cost_and_success_are_one_value_in_two_units(tmp_path: Path) -> None:
    made = store(tmp_path, [6, 9], [True, False])
    good, cost = (chunks_of(made, c, action_horizon=2, gamma=GAMMA) for c in (SUCCESS, COST))
    # A cost of -1 before the step that succeeds: -(1 - gamma^k) / (1 - gamma) for k steps before it.
    np.testing.assert_allclose(cost.returns, (good.returns - 1) / (1 - GAMMA))


def test_several_chunks_may_be_paid_before_a_value_takes_over(tmp_path: Path) -> None:
    made = store(tmp_path, [9, 9], [False, True])
    found = chunks_of(made, COST, action_horizon=2, gamma=GAMMA, n_step=2)
    assert found.reward[0] == pytest.approx(-(1 - GAMMA**4) / (1 - GAMMA))
    assert found.discount[0] == pytest.approx(GAMMA**4)
    assert found.following[0] == 4


def test_labels_of_every_step_are_believed(tmp_path: Path) -> None:
    # The column says step 3 on; the rule of the hold would say the last three of six, which is the same,
    # but of eight it would be steps 5, 6 and 7.
    made = store(tmp_path, [8], [True], extra={"reward": (), "success": ()})
    found = chunks_of(made, SUCCESS, action_horizon=2, gamma=GAMMA)
    assert found.start.tolist() == [0, 1, 2, 3]
    env = ConventionConfig(reward="env", terminate=True)
    paid = chunks_of(made, env, action_horizon=2, gamma=GAMMA)
    np.testing.assert_allclose(paid.reward, [1 + GAMMA] * 3 + [1])


def test_chunks_of_two_stores_are_gathered_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    stores = [store(tmp_path, [9, 6], [False, True]), store(tmp_path / "other", [9], [False])]
    spec = toy_spec()
    data = Transitions(stores, spec, SUCCESS, obs_horizon=2, action_horizon=2, gamma=GAMMA)
    assert len(data) == 9 + 4 + 9
    assert (data.wins, data.episodes) == (1, 3)
    assert data.episode.tolist() == [0] * 9 + [1] * 4 + [2] * 9
    now, after, columns = data.gather(torch.tensor([14, 2, 11]))  # grouped: 2 and 11, then 14
    assert now.observation["position"][:, :, 0].tolist() == [[1, 2], [1, 2], [0, 1]]
    assert after.observation["position"][:, -1, 0].tolist() == [4, 4, 3]
    assert now.action[:, 1, 0].tolist() == pytest.approx([0.0, 0.1, 0.0])
    assert columns["reward"].tolist() == pytest.approx([0, GAMMA, 0])


def test_what_cannot_be_valued_is_refused(tmp_path: Path) -> None:
    made = store(tmp_path, [9], [True])
    with pytest.raises(ConfigError, match="gamma < 1"):
        chunks_of(made, COST, action_horizon=2, gamma=1.0)
    with pytest.raises(DataError, match="no column 'reward'"):
        chunks_of(made, dataclasses.replace(SUCCESS, reward="env"), action_horizon=2, gamma=GAMMA)
    made.append(made.episode(0), seed=1)
    with pytest.raises(DataError, match="not known which of 1"):
        chunks_of(made, SUCCESS, action_horizon=2, gamma=GAMMA)


def test_held_out_episodes_are_whole() -> None:
    episode = np.repeat(np.arange(10), 7)
    train, held = split(episode, 0.25, 0)
    assert len(held) == 21
    assert not set(episode[train]) & set(episode[held])
    assert len(split(episode, 0.0, 0)[1]) == 0
