from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robopolicy.errors import ConfigError, SpecMismatch
from robopolicy.rollout import (
    ChunkRunner,
    Episode,
    ExpertActor,
    LaneView,
    PolicyActor,
    ReplayActor,
    run_episodes,
)
from robopolicy.spec import Spec
from robopolicy.vector import LaneVectorEnv, WorkerError
from tests.rl import fragile_env
from tests.rl.toy_policy import toy_policy
from tests.toy_env import toy_spec, toy_task


class Spy:
    """Drifts slowly, never to a goal, and keeps what it was shown."""

    spec: Spec | None = None

    def __init__(self, obs_horizon: int, action_horizon: int) -> None:
        self.obs_horizon, self.action_horizon = obs_horizon, action_horizon
        self.views: list[LaneView] = []

    def act(self, view: LaneView) -> np.ndarray:
        self.views.append(view)
        return np.full((len(view.seeds), self.action_horizon, 2), 0.01, np.float32)


def _positions(seed: int, steps: int) -> np.ndarray:
    """Every position of a `Spy` episode, from the reset on, by plain stepping."""
    envs = LaneVectorEnv(toy_task(horizon=steps + 1), 1, chunk=max(steps, 1))
    first, _ = envs.reset(seed=[seed])
    step = envs.step_chunk(np.full((1, steps, 2), 0.01, np.float32))
    envs.close()
    return np.concatenate([first["position"], step.observations["position"][0]])


@pytest.mark.parametrize("obs_horizon", [1, 2, 5])
@pytest.mark.parametrize("action_horizon", [1, 3, 8])
def test_history_is_the_last_observations_even_over_short_chunks(
    obs_horizon: int, action_horizon: int
) -> None:
    horizon, seeds = 17, [40, 41, 42, 43, 44]
    envs = LaneVectorEnv(toy_task(horizon=horizon, env={"reach": 1e-6}), 2, chunk=8)
    spy = Spy(obs_horizon, action_horizon)
    episodes = list(run_episodes(envs, spy, seeds))
    envs.close()
    assert sorted(episode.seed for episode in episodes) == seeds
    truth = {seed: _positions(seed, horizon) for seed in seeds}
    seen: set[tuple[int, int]] = set()
    for view in spy.views:
        for lane, (seed, time) in enumerate(zip(view.seeds.tolist(), view.time.tolist(), strict=True)):
            if time >= horizon:
                continue  # an idle lane
            seen.add((seed, time))
            # Before an episode's first observation there is nothing but that observation.
            rows = np.maximum(np.arange(time - obs_horizon + 1, time + 1), 0)
            np.testing.assert_array_equal(view.observation["position"][lane], truth[seed][rows])
    assert seen == {(seed, time) for seed in seeds for time in range(0, horizon, action_horizon)}


@pytest.mark.parametrize(("obs_horizon", "action_horizon"), [(1, None), (3, None), (3, 2)])
def test_rows_from_the_present_on_are_executed(obs_horizon: int, action_horizon: int | None) -> None:
    """Row To-1 of a chunk is the present's, whatever part of the rest is executed."""
    policy = toy_policy(obs_horizon=obs_horizon, pred_horizon=8, action_horizon=4)
    asked: list[np.ndarray] = []
    inner = policy.sample

    def sample(*observation: Any, **settings: Any) -> Any:
        made = inner(*observation, **settings)
        asked.append(made.actions)
        return made

    policy.sample = sample  # type: ignore[method-assign]
    actor = PolicyActor(policy, action_horizon)
    envs = LaneVectorEnv(toy_task(horizon=8, env={"reach": 1e-6}), 1, chunk=4)
    (episode,) = run_episodes(envs, actor, [3], record=True)
    envs.close()
    count = action_horizon or 4
    rows = [chunk[0, 0, obs_horizon - 1 : obs_horizon - 1 + count] for chunk in asked]
    np.testing.assert_array_equal(episode.data["action"], np.concatenate(rows))
    with pytest.raises(ConfigError, match=f"needs pred_horizon >= .* = {obs_horizon + 8}"):
        PolicyActor(policy, 9)


@pytest.mark.parametrize("obs_horizon", [1, 2, 6])
@pytest.mark.parametrize("action_horizon", [1, 4])
def test_views_tell_what_was_executed(obs_horizon: int, action_horizon: int) -> None:
    """By episode and time: what a lane did in its last episode is not this one's."""

    class Counting(Spy):
        def act(self, view: LaneView) -> np.ndarray:
            super().act(view)
            number = view.seeds[:, None] + 0.001 * (view.time[:, None] + np.arange(action_horizon))
            return np.repeat(1e-3 * number[..., None], 2, axis=2).astype(np.float32)

    envs = LaneVectorEnv(toy_task(horizon=9, env={"reach": 1e-6}), 2, chunk=4)
    spy = Counting(obs_horizon, action_horizon)
    list(run_episodes(envs, spy, [1, 2, 3]))
    envs.close()
    for view in spy.views:
        for lane, (seed, time) in enumerate(zip(view.seeds.tolist(), view.time.tolist(), strict=True)):
            if time >= 9:
                continue  # an idle lane
            steps = np.arange(time - obs_horizon + 1, time)
            expected = np.where(steps >= 0, 1e-3 * (seed + 0.001 * steps), np.nan)
            assert view.executed is not None
            np.testing.assert_allclose(
                view.executed[lane], np.repeat(expected[:, None], 2, axis=1), rtol=1e-6
            )


def test_views_do_not_change_after_they_were_shown() -> None:
    envs = LaneVectorEnv(toy_task(horizon=6), 2, chunk=8)
    spy = Spy(2, 2)
    copies: list[np.ndarray] = []
    act = spy.act

    def remember(view: LaneView) -> np.ndarray:
        copies.append(view.observation["position"].copy())
        return act(view)

    spy.act = remember  # type: ignore[method-assign]
    list(run_episodes(envs, spy, range(5)))
    envs.close()
    for view, copy in zip(spy.views, copies, strict=True):
        np.testing.assert_array_equal(view.observation["position"], copy)


def test_the_final_observation_of_an_ended_episode_is_kept() -> None:
    envs = LaneVectorEnv(toy_task(horizon=3), 2, chunk=4)
    runner = ChunkRunner(envs, obs_horizon=2, action_horizon=4)
    runner.reset(np.ones(2, bool), np.array([1, 2]))
    transition = runner.step(np.full((2, 4, 2), 0.01, np.float32))
    assert transition.step.steps.tolist() == [3, 3]
    for lane, seed in enumerate((1, 2)):
        np.testing.assert_array_equal(transition.next_observation["position"][lane], _positions(seed, 3)[-2:])
    runner.reset(np.array([True, False]), np.array([9, 2]))
    np.testing.assert_array_equal(runner.view.observation["position"][0], _positions(9, 3)[[0, 0]])
    np.testing.assert_array_equal(runner.view.observation["position"][1], _positions(2, 3)[-2:])
    np.testing.assert_array_equal(transition.next_observation["position"][0], _positions(1, 3)[-2:])
    assert runner.view.time.tolist() == [0, 3]
    assert runner.view.seeds.tolist() == [9, 2]
    envs.close()


def test_success_and_its_time_are_counted_over_chunks() -> None:
    task = toy_task(success_hold=4)
    tables = []
    for chunk in (1, 3, 16):
        envs = LaneVectorEnv(task, 3, chunk=16)
        episodes = sorted(run_episodes(envs, ExpertActor(chunk), range(7)), key=lambda e: e.index)
        envs.close()
        assert all(e.steps == e.first_success + 4 for e in episodes)
        assert all(e.total_reward == 5 for e in episodes)
        tables.append([(e.seed, e.steps, e.success, e.success_final) for e in episodes])
    assert tables[0] == tables[1] == tables[2]


def test_success_at_any_step_is_not_success_at_the_end() -> None:
    task = toy_task(success_hold=6, env={"reach": 0.06})
    envs = LaneVectorEnv(task, 1, chunk=8)
    expert = next(iter(run_episodes(envs, ExpertActor(8), [5], record=True)))
    through = np.concatenate([expert.data["action"][: expert.first_success], np.ones((6, 2), np.float32)])
    episode = next(iter(run_episodes(envs, ReplayActor({5: through}), [5])))
    envs.close()
    assert expert.success_final
    assert episode.success
    assert episode.first_success == expert.first_success
    assert not episode.success_final


def test_failures_run_to_the_horizon() -> None:
    envs = LaneVectorEnv(toy_task(horizon=11), 2, chunk=4)
    still = ReplayActor({seed: np.zeros((1, 2), np.float32) for seed in range(4)}, 4)
    episodes = list(run_episodes(envs, still, range(4)))
    envs.close()
    failures = [e for e in episodes if not e.success]
    assert failures
    assert all(e.steps == 11 and e.first_success == -1 and not e.success_final for e in failures)


def test_recorded_observations_come_before_their_actions() -> None:
    envs = LaneVectorEnv(toy_task(noise=0.2), 2, chunk=5)
    episodes = list(run_episodes(envs, ExpertActor(5), range(5), record=True))
    envs.close()
    for episode in episodes:
        data = episode.data
        assert {len(value) for value in data.values()} == {episode.steps}
        moved = np.diff(data["position"], axis=0)
        np.testing.assert_allclose(moved, 0.1 * data["action"][:-1], atol=1e-6)
        np.testing.assert_allclose(data["reward"].sum(), episode.total_reward)


def test_results_do_not_depend_on_workers_or_lanes() -> None:
    tables = []
    for lanes, workers in ((1, 0), (3, 0), (3, 2), (7, 1)):
        envs = LaneVectorEnv(toy_task(noise=0.3, lazy=0.3), lanes, workers=workers, chunk=4)
        episodes = sorted(run_episodes(envs, ExpertActor(4), range(8), record=True), key=lambda e: e.index)
        envs.close()
        tables.append([(e.seed, e.steps, e.success, e.data["action"].tobytes()) for e in episodes])
    assert all(table == tables[0] for table in tables)


def test_more_lanes_than_episodes_and_no_episodes() -> None:
    envs = LaneVectorEnv(toy_task(), 5, chunk=8)
    spy = Spy(1, 8)
    assert len(list(run_episodes(envs, spy, [1, 2]))) == 2
    assert {len(view.seeds) for view in spy.views} == {5}
    assert list(run_episodes(envs, spy, [])) == []
    envs.close()


def test_stop_finishes_what_runs_and_starts_nothing_new() -> None:
    envs = LaneVectorEnv(toy_task(), 3, chunk=8)
    finished: list[Episode] = []

    def stop(episode: Episode) -> bool:
        finished.append(episode)
        return len(finished) >= 2

    episodes = list(run_episodes(envs, ExpertActor(8), range(100), stop=stop))
    envs.close()
    assert episodes == finished
    assert 2 <= len(episodes) <= 4
    assert sorted(e.index for e in episodes) == list(range(len(episodes)))


def test_an_actor_made_for_other_environments_is_refused() -> None:
    envs = LaneVectorEnv(toy_task(), 1, chunk=8)
    spy = Spy(1, 8)
    spy.spec = dataclasses.replace(toy_spec(), control_hz=20.0)
    with pytest.raises(SpecMismatch, match=r"control_hz: wanted 20, given 10"):
        list(run_episodes(envs, spy, [1]))
    with pytest.raises(ConfigError, match="action_horizon 9 exceeds"):
        list(run_episodes(envs, Spy(1, 9), [1]))
    envs.close()


def test_an_episode_that_is_lost_with_its_worker_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fragile_env.MARK, str(tmp_path / "died"))
    dying = LaneVectorEnv(toy_task(env={"name": "toy_dying_once"}), 4, workers=2, chunk=4)
    steady = LaneVectorEnv(toy_task(), 4, chunk=4)
    with pytest.warns(UserWarning, match="2 episodes are lost"):
        found = list(run_episodes(dying, ExpertActor(4), range(7), record=True))
    expected = {
        episode.seed: episode for episode in run_episodes(steady, ExpertActor(4), range(7), record=True)
    }
    assert sorted(episode.seed for episode in found) == list(range(7))
    for episode in found:
        same = expected[episode.seed]
        assert (episode.steps, episode.success, episode.index) == (same.steps, same.success, same.index)
        np.testing.assert_array_equal(episode.data["position"], same.data["position"])
    for envs in (dying, steady):
        envs.close()


def test_an_episode_that_is_lost_every_time_is_named() -> None:
    envs = LaneVectorEnv(toy_task(env={"name": "toy_dying_once"}), 1, workers=1, chunk=2)
    drifting = Spy(1, 2)
    with (
        pytest.warns(UserWarning, match="worker 0"),
        pytest.raises(WorkerError, match=r"seed 3 .* lost 3 times"),
    ):
        list(run_episodes(envs, drifting, [3]))
    envs.close()
