"""Goals are what recorded episodes came to: they are shown, reached, and can be overdone or ignored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robopolicy.compose import compose
from robopolicy.data.store import EpisodeStore
from robopolicy.env import make_env
from robopolicy.errors import DataError, MissingCapability, SpecMismatch
from robopolicy.evaluation.baselines import baseline_in
from robopolicy.evaluation.collect import collect
from robopolicy.evaluation.run import EvaluateConfig, run_evaluation
from robopolicy.learning.checkpoint import load
from robopolicy.learning.train import TrainConfig, prepare
from robopolicy.policies.policy import Policy
from robopolicy.registry import build, parse
from robopolicy.rollout import PolicyActor, run_episodes
from robopolicy.task import Task
from robopolicy.vector import LaneVectorEnv
from tests.toy_env import toy_task

TASK = toy_task()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("goals") / "toy.zarr"
    collect(TASK, path, episodes=60, workers=0, progress=False)
    return path


def train(store: Path, directory: Path, steps: int) -> Path:
    """It sees where it is and where it is to end up, not the environment's own goal."""
    words = [
        f"data={store}", "policy=beso", "observations=[position,goal/position]", f"out={directory}",
        "policy.pred_horizon=8", "policy.action_horizon=4", "network.width=64", f"trainer.steps={steps}",
        "trainer.learning_rate=3e-3", "trainer.warmup=1", "validation=0", "policy.goal_dropout=0.2",
    ]  # fmt: skip
    prepare(parse(TrainConfig, compose("train", words), "train"), progress=False).train()
    return directory


@pytest.fixture(scope="module")
def run(store: Path) -> Path:
    return train(store, store.parent / "run", steps=2)


def missed(policy: Policy, episodes: int = 24) -> float:
    """Median distance between where episodes ended and their goals."""
    task = policy.provenance.task
    assert task is not None
    envs = LaneVectorEnv(replace(task, success_hold=task.horizon), 8, workers=0, chunk=4)
    seeds = range(3_000_000, 3_000_000 + episodes)
    found = [e.data for e in run_episodes(envs, PolicyActor(policy), seeds, record=True)]
    envs.close()
    return float(np.median([np.linalg.norm((d["position"] - d["goal/position"])[-1]) for d in found]))


def test_a_goal_is_the_end_of_an_episode_and_stays(store: Path) -> None:
    opened = EpisodeStore.open(store)
    ends = {tuple(row) for row in opened.read("position")[opened.episode_ends - 1].tolist()}
    env, plain = make_env(replace(TASK, goals=str(store))), make_env(TASK)
    seen = {}
    for seed in range(12):
        first, _ = env.reset(seed=seed)
        second, *_ = env.step(np.ones(2, np.float32))
        seen[seed] = tuple(first["goal/position"].tolist())
        assert seen[seed] in ends
        np.testing.assert_array_equal(first["goal/position"], second["goal/position"])
        np.testing.assert_array_equal(first["position"], plain.reset(seed=seed)[0]["position"])
    assert len(set(seen.values())) > 6
    assert tuple(env.reset(seed=3)[0]["goal/position"].tolist()) == seen[3]
    assert (
        set(env.robot_spec.goals)
        == {"goal/position", "goal/goal"}
        == set(env.observation_space) - set(TASK_KEYS)
    )


TASK_KEYS = ("position", "goal")


@pytest.mark.slow
def test_goals_are_reached_ignored_and_overdone(tmp_path: Path, store: Path) -> None:
    policy = load(train(store, tmp_path / "run", steps=700))
    ignored, halved, kept, overdone = (
        missed(build("steer", {"name": "goal_guidance", "weight": weight}, policy=policy))
        for weight in (0.0, 0.5, 1.0, 2.0)
    )
    assert kept == missed(policy) < 0.2 < halved < ignored
    assert overdone > 2 * kept
    assert policy.config.guidance == 1


def test_goals_are_those_of_training_unless_others_are_given(run: Path, store: Path, tmp_path: Path) -> None:
    collect(TASK, tmp_path / "one.zarr", episodes=1, workers=0, progress=False)
    policy = load(run)
    assert policy.provenance.task is not None
    assert policy.provenance.task.goals == str(store)
    config = EvaluateConfig(
        checkpoint=str(run), goals=str(tmp_path / "one.zarr"), episodes=4, workers=0, video=0, lanes=4,
        out=str(tmp_path / "out"), steer={"name": "goal_guidance", "weight": 1.5},
    )  # fmt: skip
    evaluation = run_evaluation(config, progress=False).evaluation
    assert evaluation is not None
    assert evaluation.task.goals == str(tmp_path / "one.zarr")


def test_perturbed_readings_leave_goals_alone(store: Path) -> None:
    perturb = ({"name": "noise", "level": 0.5},)
    noisy = make_env(replace(TASK, goals=str(store), perturb=perturb))
    plain = make_env(replace(TASK, goals=str(store)))
    one, two = noisy.reset(seed=1)[0], plain.reset(seed=1)[0]
    assert (one["position"] != two["position"]).any()
    np.testing.assert_array_equal(one["goal/position"], two["goal/position"])


def other(store: Path, path: Path, **columns: Any) -> str:
    """A store of episodes with these observations."""
    episodes = [{"action": np.zeros((3, 2), np.float32), **columns}]
    EpisodeStore.from_arrays(path, episodes=episodes, control_hz=10)
    return str(path)


def test_what_cannot_be_a_goal_is_refused(run: Path, store: Path, tmp_path: Path) -> None:
    def made(goals: str) -> None:
        make_env(Task.from_dict({**TASK.to_dict(), "goals": goals}))

    three, two = np.zeros((3, 3), np.float32), np.zeros((3, 2), np.float32)
    with pytest.raises(DataError, match="goals need goal, which it does not have"):
        made(other(store, tmp_path / "a.zarr", position=two))
    with pytest.raises(SpecMismatch, match=r"position has shape \[3\], in the environment \[2\]"):
        made(other(store, tmp_path / "b.zarr", position=three, goal=two))
    far = replace(TASK, env={"name": "toy", "reach": 0.0})
    collect(far, tmp_path / "c.zarr", episodes=2, workers=0, progress=False, actor=baseline_in(far, "zero"))
    with pytest.raises(DataError, match="no episode succeeded"):
        made(str(tmp_path / "c.zarr"))
    with pytest.raises(SpecMismatch, match=r"'goal/position': missing .*\+task.goals="):
        load(run).spec.require(make_env(TASK).robot_spec)


def test_a_policy_without_a_goal_cannot_be_guided(tmp_path: Path, store: Path) -> None:
    words = [
        f"data={store}",
        "policy=diffusion",
        f"out={tmp_path}/run",
        "trainer.steps=1",
        "network.width=16",
    ]
    prepare(parse(TrainConfig, compose("train", words), "train"), progress=False).train()
    with pytest.raises(MissingCapability, match="goal_guidance needs a beso policy"):
        build("steer", {"name": "goal_guidance"}, policy=load(tmp_path / "run"))
