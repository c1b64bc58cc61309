from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robopolicy.errors import ConfigError, DataError
from robopolicy.evaluation.baselines import ExploringActor, RandomActor, ZeroActor, baseline
from robopolicy.evaluation.evaluate import Evaluation, evaluate
from robopolicy.rollout import Episode, ExpertActor, LaneView
from robopolicy.seeding import episode_seeds
from robopolicy.vector import LaneVectorEnv
from tests.toy_env import toy_spec, toy_task


def test_the_expert_succeeds_and_doing_nothing_does_not() -> None:
    task = toy_task(noise=0.1)
    expert = evaluate(ExpertActor(8), task, episodes=20, workers=0, progress=False)
    zero = evaluate(ZeroActor(toy_spec().action), task, episodes=20, workers=0, progress=False)
    assert expert.success.value == 1.0
    assert zero.success.value < 0.2
    assert [row.seed for row in expert.rows] == episode_seeds("report", 20)
    assert all(row.steps == task.horizon for row in zero.rows if not row.success)
    assert all(row.steps == row.first_success + task.success_hold for row in expert.rows)


def test_tables_do_not_depend_on_workers() -> None:
    task = toy_task(noise=0.4, lazy=0.3)
    tables = [
        evaluate(ExpertActor(5), task, episodes=13, lanes=4, workers=w, progress=False).rows
        for w in (0, 1, 2)
    ]
    assert tables[0] == tables[1] == tables[2]
    assert {row.success for row in tables[0]} == {True, False}


def test_random_actions_belong_to_the_episode() -> None:
    actor = RandomActor(toy_spec().action, 4)
    tables = [
        evaluate(actor, toy_task(), episodes=6, lanes=lanes, workers=0, progress=False).rows
        for lanes in (1, 4)
    ]
    assert tables[0] == tables[1]
    assert len({row.total_reward for row in tables[0]} | {row.steps for row in tables[0]}) > 1


def test_a_used_report_seed_is_refused_and_a_used_selection_seed_is_not() -> None:
    used = [episode_seeds("report", 10)[7], *episode_seeds("select", 3)]
    with pytest.raises(DataError, match="3000007"):
        evaluate(ExpertActor(), toy_task(), episodes=10, used_seeds=used, workers=0, progress=False)
    result = evaluate(
        ExpertActor(), toy_task(), episodes=3, block="select", used_seeds=used, workers=0, progress=False
    )
    assert len(result.rows) == 3


def test_given_environments_stay_open_and_are_reused() -> None:
    envs = LaneVectorEnv(toy_task(), 3, chunk=8)
    first, second = (
        evaluate(ExpertActor(8), toy_task(), episodes=5, envs=envs, progress=False) for _ in range(2)
    )
    assert first.rows == second.rows
    assert first.lanes == 3
    assert not envs.closed
    envs.close()


def test_who_watches_sees_every_episode_and_its_arrays() -> None:
    seen: list[Episode] = []
    settings: dict[str, Any] = {"episodes": 5, "lanes": 2, "workers": 0, "progress": False}
    watched = evaluate(ExpertActor(8), toy_task(), **settings, watch=seen.append)
    assert watched.rows == evaluate(ExpertActor(8), toy_task(), **settings).rows
    assert sorted(episode.index for episode in seen) == [0, 1, 2, 3, 4]
    for episode in seen:
        assert {len(rows) for rows in episode.data.values()} == {episode.steps}
        assert {"position", "action", "success"} <= episode.data.keys()


def test_save_and_load(tmp_path: Path) -> None:
    result = evaluate(ExpertActor(), toy_task(noise=0.2), episodes=4, workers=0, progress=False)
    result.save(tmp_path / "out")
    assert Evaluation.load(tmp_path / "out") == result
    lines = (tmp_path / "out" / "episodes.csv").read_text().splitlines()
    assert lines[0].startswith("index,seed,success")
    assert len(lines) == 5
    with pytest.raises(DataError, match="evaluate first"):
        Evaluation.load(tmp_path / "nothing")


def test_the_summary_has_the_numbers() -> None:
    text = evaluate(ExpertActor(), toy_task(), episodes=5, workers=0, progress=False).summary()
    assert "5 of 5" in text
    assert "100.0% [56.6%, 100.0%]" in text
    assert "3000000..3000004" in text


def test_bad_requests_name_the_valid_choices() -> None:
    with pytest.raises(ConfigError, match="collect, practice, report, select"):
        evaluate(ExpertActor(), toy_task(), block="test", progress=False)
    with pytest.raises(ConfigError, match="at least 1 episode"):
        evaluate(ExpertActor(), toy_task(), episodes=0, progress=False)
    with pytest.raises(ConfigError, match="random, zero"):
        baseline("nothing", toy_spec().action)


def test_zero_is_clipped_into_the_bounds() -> None:
    action = dataclasses.replace(toy_spec().action, low=(0.5, -1.0), high=(1.0, 1.0))
    view = LaneView(observation={}, seeds=np.zeros(3, np.int64), time=np.zeros(3, np.int64))
    chunk = ZeroActor(action, action_horizon=4).act(view)
    assert chunk.shape == (3, 4, 2)
    assert (chunk == np.array([0.5, 0.0], np.float32)).all()


def test_random_needs_bounds() -> None:
    action = dataclasses.replace(toy_spec().action, high=(float("inf"), 1.0))
    with pytest.raises(ConfigError, match="need bounds"):
        RandomActor(action)


def test_exploring_is_the_episodes_own_and_at_most_of_its_level() -> None:
    action = dataclasses.replace(toy_spec().action, low=(-100.0, -50.0), high=(100.0, 50.0))
    seeds = np.arange(400)
    view = LaneView(observation={}, seeds=seeds, time=np.zeros(400, np.int64))
    chunk = ExploringActor(ZeroActor(action, 3), action, 0.3).act(view)
    assert (chunk == chunk[:, :1]).all()
    # The root mean square of levels drawn evenly up to 0.3 is 0.3 / sqrt(3).
    assert np.allclose(np.sqrt((chunk[:, 0] ** 2).mean(0)) / [100, 50], 0.3 / np.sqrt(3), rtol=0.15)
    few = dataclasses.replace(view, seeds=seeds[7:9], time=view.time[7:9])
    assert (ExploringActor(ZeroActor(action, 3), action, 0.3).act(few) == chunk[7:9]).all()
    assert (ExploringActor(ZeroActor(action, 3), action, 0.0).act(view) == 0).all()
    with pytest.raises(ConfigError, match="level >= 0"):
        ExploringActor(ZeroActor(action, 3), action, -0.1)
