from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from robopolicy.errors import ConfigError, DataError, SpecMismatch
from robopolicy.rl.convention import ConventionConfig
from robopolicy.rl.practice import Practice
from robopolicy.rollout import run_episodes
from robopolicy.seeding import episode_seeds
from robopolicy.spec import Spec
from robopolicy.vector import LaneVectorEnv
from robopolicy.world.imagined import ImaginedConfig, ImaginedVectorEnv, require_spec
from robopolicy.world.starts import Starts
from robopolicy.world.world import World
from tests.toy_env import toy_spec, toy_task
from tests.world.toy_world import TASK


class Towards:
    """Straight to the goal: the toy's speed is 0.2."""

    obs_horizon = 1
    action_horizon = 4
    spec: Spec | None = None

    def act(self, view: Any) -> np.ndarray:
        gap = (view.observation["goal"] - view.observation["position"])[:, -1]
        rows = []
        for _ in range(4):
            rows.append(np.clip(gap / 0.2, -1, 1))
            gap = gap - 0.2 * rows[-1]
        return np.stack(rows, 1).astype(np.float32)


class Away(Towards):
    def act(self, view: Any) -> np.ndarray:
        return -0.3 * np.sign(super().act(view))


def lanes(world: World, starts: Starts, count: int = 6, **config: Any) -> ImaginedVectorEnv:
    return ImaginedVectorEnv(world, starts, TASK, count, chunk=4, config=ImaginedConfig(**config))


def test_it_has_the_task_s_spec_and_spaces(world: World, starts: Starts) -> None:
    imagined, real = lanes(world, starts), LaneVectorEnv(TASK, 6, chunk=4)
    assert imagined.robot_spec == real.robot_spec
    assert imagined.single_action_space == real.single_action_space
    first, _ = imagined.reset(seed=0)
    expected, _ = real.reset(seed=0)
    assert {k: (v.shape, v.dtype) for k, v in first.items()} == {
        k: (v.shape, v.dtype) for k, v in expected.items()
    }
    observation, reward, terminated, truncated, info = imagined.step(np.zeros((6, 2)))
    assert observation["position"].shape == (6, 2)
    assert reward.shape == terminated.shape == truncated.shape == info["success"].shape == (6,)


def test_episodes_begin_as_recorded_ones_did(world: World, starts: Starts) -> None:
    first, _ = lanes(world, starts).reset(seed=[5] * 3 + [6] * 3)
    begun = starts.observation["position"][starts.first][:, -1].numpy()
    assert all((row == begun).all(1).any() for row in first["position"])
    assert (first["position"][:3] == first["position"][0]).all()
    kept = {key: value.copy() for key, value in first.items()}
    envs = lanes(world, starts)
    again, _ = envs.reset(seed=[5] * 3 + [6] * 3)
    envs.reset(seed=99)
    assert all(np.array_equal(again[key], kept[key]) for key in kept)  # what was given stays as it is
    middle, _ = lanes(world, starts, anywhere=1.0).reset(seed=5)
    others = starts.observation["position"][~starts.first][:, -1].numpy()
    assert all((row == others).all(1).any() for row in middle["position"])


def test_going_to_the_goal_succeeds_and_going_away_does_not(world: World, starts: Starts) -> None:
    seeds = episode_seeds("select", 20)
    good = list(run_episodes(lanes(world, starts), Towards(), seeds))
    bad = list(run_episodes(lanes(world, starts), Away(), seeds))
    assert np.mean([e.success for e in good]) > 0.8
    assert np.mean([e.success for e in bad]) < 0.2
    assert all(e.first_success == e.steps and e.total_reward == 1 for e in good if e.success)  # ends there
    assert all(e.steps == TASK.horizon for e in bad if not e.success)


def test_an_episode_depends_on_seed_and_actions_alone(world: World, starts: Starts) -> None:
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (6, 4, 2)).astype(np.float32)
    whole, parts = lanes(world, starts), lanes(world, starts)
    whole.reset(seed=1)
    parts.reset(seed=1)
    made = whole.step_chunk(actions)
    single = [parts.step_chunk(actions[:, j : j + 1]).observations["position"] for j in range(4)]
    assert np.array_equal(made.observations["position"], np.concatenate(single, 1))
    # A lane is the same whatever the others do, and while they rest.
    alone = lanes(world, starts)
    alone.reset(seed=1)
    active = np.arange(6) == 2
    changed = np.where(active[:, None, None], actions, 0.5)
    found = alone.step_chunk(changed, active=active)
    assert np.array_equal(found.observations["position"][2], made.observations["position"][2])
    assert found.steps.tolist() == [0, 0, 4, 0, 0, 0]


def test_practice_resumes_exactly(world: World, starts: Starts) -> None:
    def practice() -> Practice:
        return Practice(lanes(world, starts), ConventionConfig(), obs_horizon=2, action_horizon=4)

    rng = np.random.default_rng(1)
    chunks = rng.uniform(-1, 1, (9, 6, 4, 2)).astype(np.float32)
    first = practice()
    for chunk in chunks[:5]:
        first.step(chunk)
    second = practice()
    second.restore(first.state())
    for chunk in chunks[5:]:
        one, other = first.step(chunk), second.step(chunk)
        for key, value in one.transition.next_observation.items():
            assert np.array_equal(value, other.transition.next_observation[key])
        assert np.array_equal(one.rewards, other.rewards)


def test_horizon_truncates_after_so_many_decisions(world: World, starts: Starts) -> None:
    envs = lanes(world, starts, decisions=2)
    assert envs.task.horizon == 8
    envs.reset(seed=0)
    away = np.full((6, 4, 2), 0.0, np.float32)
    envs.step_chunk(away)
    last = envs.step_chunk(away)
    open_ended = ~last.terminated
    assert open_ended.any()
    assert last.truncated[open_ended].all()
    with pytest.raises(ConfigError, match="have ended; reset them first"):
        envs.step_chunk(away)


def test_success_takes_so_many_frames_in_a_row(world: World, starts: Starts) -> None:
    def first_successes() -> list[int]:
        found = sorted(run_episodes(lanes(world, starts), Towards(), episode_seeds("select", 6)), key=_index)
        return [e.first_success for e in found]

    once = first_successes()
    world.consecutive.fill_(3)
    thrice = first_successes()
    pairs = [(a, b) for a, b in zip(once, thrice, strict=True) if a > 0 and b > 0]
    assert pairs
    assert all(b - a >= 2 for a, b in pairs)


def _index(episode: Any) -> int:
    return int(episode.index)


def test_clipped_actions_are_counted_and_not_finite_ones_refused(world: World, starts: Starts) -> None:
    envs = lanes(world, starts)
    envs.reset(seed=0)
    actions = np.zeros((6, 1, 2), np.float32)
    actions[:3, 0, 0] = 1.7
    step = envs.step_chunk(actions)
    assert step.actions[0, 0, 0] == np.float32(1.7)  # its own density is the policy's business
    assert envs.statistics()["imagined_clipped"] == 0.5
    assert envs.statistics()["imagined_clipped"] == 0.0
    actions[4, 0, 1] = np.nan
    with pytest.raises(ConfigError, match="action for task toy is not finite"):
        envs.step_chunk(actions)
    with pytest.raises(ConfigError, match="no scripted expert"):
        envs.step_chunk(None, length=2)
    with pytest.raises(ConfigError, match=r"wants \[6, 1 to 4, 2\] actions"):
        envs.step_chunk(np.zeros((6, 5, 2)))


def test_a_diverging_lane_is_lost_counted_and_started_again(
    world: World, starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    practice = Practice(lanes(world, starts), ConventionConfig(), obs_horizon=1, action_horizon=4)
    usual = world.plausible
    monkeypatch.setattr(world, "plausible", lambda frame: usual(frame) & (torch.arange(len(frame)) != 2))
    before = practice.runner.seeds[2]
    experience = practice.step(np.zeros((6, 4, 2), np.float32))
    assert experience.lost.tolist() == [False, False, True, False, False, False]
    assert experience.steps.tolist() == [4, 4, 0, 4, 4, 4]
    assert practice.lost_episodes == 1
    assert practice.runner.seeds[2] != before
    assert practice.envs.statistics()["imagined_diverged"] == 1  # type: ignore[attr-defined]


def test_an_evaluation_counts_an_episode_that_diverges_as_failed(
    world: World, starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = world.plausible
    monkeypatch.setattr(world, "plausible", lambda frame: usual(frame) & (torch.arange(len(frame)) != 2))
    seeds = episode_seeds("select", 12)
    found = sorted(run_episodes(lanes(world, starts), Towards(), seeds, record=True), key=_index)
    assert [episode.seed for episode in found] == list(seeds)
    failed = [episode for episode in found if not episode.steps]
    assert failed
    assert not any(episode.success or episode.success_final or episode.data for episode in failed)
    assert any(episode.success for episode in found)


def test_pessimism_ends_episodes_where_members_disagree(
    world: World, starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"needs an ensemble: train .* world.members=3"):
        lanes(world, starts, pessimism=1.0)
    monkeypatch.setattr(world, "members", 2)
    envs = lanes(world, starts, pessimism=2.0)
    envs.reset(seed=0)
    usual = world.imagine

    def doubtful(*arguments: torch.Tensor) -> Any:
        made = usual(*arguments)
        return replace(made, doubt=torch.arange(6.0))

    monkeypatch.setattr(world, "imagine", doubtful)
    world.usual_doubt.fill_(1.5)
    step = envs.step_chunk(np.zeros((6, 1, 2), np.float32))
    assert step.terminated.tolist() == [False] * 4 + [True] * 2
    assert not step.success.any()
    found = envs.statistics()
    assert found["imagined_doubted"] == 2
    assert found["imagined_doubt"] == 2.5


def test_unknown_tasks_and_other_observations_are_refused(world: World, starts: Starts) -> None:
    task = type(TASK).from_dict(TASK.to_dict() | {"name": "push"})
    with pytest.raises(ConfigError, match="Unknown task of this world model 'push'"):
        ImaginedVectorEnv(world, starts, task, 2)
    spec = toy_spec()
    other = Spec(
        observations={"joints": spec.observations["position"]}, action=spec.action, control_hz=spec.control_hz
    )
    with pytest.raises(DataError, match=r"does not imagine \['joints'\]; it was trained on"):
        require_spec(world, other)
    fast = Spec(observations=spec.observations, action=spec.action, control_hz=20)
    with pytest.raises(SpecMismatch, match="control_hz: wanted 20, given 10"):
        require_spec(world, fast)
    with pytest.raises(ConfigError, match="decisions >= 1"):
        ImaginedConfig(decisions=0)
    assert toy_task().name == "toy"
