from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robopolicy.errors import ConfigError, DataError
from robopolicy.evaluation.value_rank import agreement_within, describe, moments, oracle, tried
from robopolicy.evaluation.value_study import ValueStudyConfig, run_study
from robopolicy.learning.checkpoint import save_checkpoint
from robopolicy.policies.policy import Provenance
from robopolicy.registry import plain
from robopolicy.rollout import PolicyActor, run_episodes
from robopolicy.seeding import episode_seeds
from robopolicy.steering.judge import Judge
from robopolicy.values.train import TrainValueConfig, ValueConfig
from robopolicy.vector import LaneVectorEnv
from tests.commands import run
from tests.rl.toy_base import TASK, astray
from tests.rl.toy_policy import toy_policy
from tests.steering.value_toys import critic, knowing
from tests.toy_env import toy_task

SEEDS = episode_seeds("select", 8)


def test_an_episode_is_taken_up_again_where_it_was() -> None:
    # Without noise every candidate is what the episode did, so it must earn what the episode earned.
    slow = toy_task(horizon=15, success_hold=0, env={"speed": 0.08, "reach": 0.1})
    policy = astray(bias=0.0, spread=0.0, task=slow)
    envs = LaneVectorEnv(slow, 5, chunk=4)
    states = moments(policy, Judge(policy, knowing()), envs, SEEDS, 2)
    earned = tried(policy, envs, states, rollouts=2, gamma=0.9)
    firsts = {
        episode.seed: episode.first_success for episode in run_episodes(envs, PolicyActor(policy), SEEDS)
    }
    envs.close()
    assert len({len(state.prefix) for state in states}) > 1
    assert {steps > 0 for steps in firsts.values()} == {True, False}
    for state, found in zip(states, earned, strict=True):
        left = firsts[state.seed] - len(state.prefix)
        np.testing.assert_allclose(found, 0.9 ** (left - 1) if firsts[state.seed] > 0 else 0.0)


def test_a_value_that_knows_the_task_ranks_its_chunks() -> None:
    policy = astray(bias=0.1, spread=0.6)
    envs = LaneVectorEnv(TASK, 20, chunk=4)
    states = moments(policy, Judge(policy, knowing()), envs, SEEDS, 6)
    earned = tried(policy, envs, states, rollouts=6, gamma=0.9)
    envs.close()
    found = agreement_within(np.stack([state.q for state in states]), earned)
    assert found["rank within states"]["value"] > 0.1
    assert found["oracle"]["value"] >= found["oracle, held out"]["value"]
    assert found["oracle"]["value"] >= found["greedy"]["value"]


def test_an_oracle_finds_what_some_candidate_would_do() -> None:
    slow = toy_task(horizon=15, success_hold=0, env={"speed": 0.08, "reach": 0.1})
    sure, unsure = (astray(bias=0.0, spread=spread, task=slow) for spread in (0.0, 0.6))
    envs = LaneVectorEnv(slow, 5, chunk=4)
    alone = [
        {e.seed: max(e.first_success, 0) for e in run_episodes(envs, PolicyActor(policy), SEEDS)}
        for policy in (sure, unsure)
    ]
    same, better = (oracle(policy, envs, SEEDS, candidates=8) for policy in (sure, unsure))
    envs.close()
    assert same == [alone[0][seed] for seed in SEEDS]  # without noise there is nothing to choose
    kept = [steps for steps, seed in zip(better, SEEDS, strict=True) if alone[1][seed]]
    assert kept == [alone[1][seed] for seed in SEEDS if alone[1][seed]]
    assert sum(steps > 0 for steps in better) > len(kept)


def test_agreement_in_closed_form() -> None:
    earned = np.array([[[0.0], [0.5], [1.0]], [[1.0], [0.0], [0.5]], [[0.2], [0.2], [0.2]]])
    perfect = agreement_within(earned[..., 0], earned)
    assert perfect["rank within states"]["value"] == pytest.approx(1.0)
    assert perfect["states where candidates differ"] == 2
    assert perfect["greedy"]["value"] == perfect["oracle"]["value"] == pytest.approx((1 + 1 + 0.2) / 3)
    assert perfect["random"]["value"] == pytest.approx((0.5 + 0.5 + 0.2) / 3)
    worst = agreement_within(-earned[..., 0], earned)
    assert worst["rank within states"]["value"] == pytest.approx(-1.0)
    assert worst["greedy minus random"]["value"] < 0
    assert "oracle, held out" not in perfect
    assert "greedy minus random" in describe(perfect)


def test_choosing_by_halves_is_not_fooled_by_luck() -> None:
    # All candidates are equally good; only luck differs.
    earned = (np.random.default_rng(0).random((200, 8, 4)) < 0.5).astype(float)
    found = agreement_within(np.random.default_rng(1).random((200, 8)), earned)
    assert found["oracle"]["value"] > 0.75
    assert abs(found["oracle, held out, minus random"]["value"]) < 0.05
    assert abs(found["rank within states"]["value"]) < 0.1


def saved(tmp_path: Path, **provenance: Any) -> list[str]:
    save_checkpoint(tmp_path / "policy", astray(bias=0.1, spread=0.6))
    values = critic()
    value = ValueConfig(name="iql", action_horizon=4)
    config = plain(TrainValueConfig(value=value, data="toy.zarr"))
    values.provenance = Provenance(task=TASK, config=config, **provenance)
    save_checkpoint(tmp_path / "values", values)
    return [f"checkpoint={tmp_path}/policy", f"critic={tmp_path}/values"]


def test_the_study_writes_what_it_found_and_how(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(
        "value_study", *saved(tmp_path), f"out={tmp_path}/checks", "episodes=6", "states=3", "tried=2",
        "lanes=6", "workers=0", "candidates=3",
    )  # fmt: skip
    found = json.loads((tmp_path / "checks" / "values_toy_iql.json").read_text())
    assert found["ranks"]["states"] == 3
    assert found["steered"].keys() == {"policy", "random", "softmax", "greedy"}
    assert found["steered"]["policy"]["difference"]["interval"]["value"] == 0
    assert found["ledgers"]["greedy"]["q_chosen"] >= found["ledgers"]["greedy"]["q_random"]
    assert {"commit", "machine", "versions", "date"} <= found.keys()
    assert "greedy" in capsys.readouterr().out


def test_improvement_stands_beside_choosing_with_what_it_costs(tmp_path: Path) -> None:
    saved(tmp_path)
    save_checkpoint(tmp_path / "policy", toy_policy(task=TASK))
    config = ValueStudyConfig(
        checkpoint=str(tmp_path / "policy"), critic=str(tmp_path / "values"), episodes=4, states=0, lanes=4,
        workers=0, candidates=3, out=str(tmp_path), ways=("greedy", "closed_form", "gradient", "oracle"),
        sampler={"name": "ddim", "steps": 4},
    )  # fmt: skip
    found = run_study(config)[1]
    assert found["steered"].keys() == {"policy", *config.ways}
    assert found["steered"]["oracle"]["success"]["value"] >= found["steered"]["policy"]["success"]["value"]
    calls = {name: cost["calls"] for name, cost in found["cost"].items()}
    assert calls == {"policy": 4, "greedy": 4, "closed_form": 4, "gradient": 4}
    assert found["ledgers"]["closed_form"]["q_chosen"] >= found["ledgers"]["closed_form"]["q_greedy"]


def test_what_cannot_be_studied_is_refused(tmp_path: Path) -> None:
    words = saved(tmp_path, used_seeds=(episode_seeds("report", 1)[0],))
    paths: dict[str, Any] = dict(word.split("=") for word in words)
    with pytest.raises(DataError, match="training the policy or the values"):
        run_study(ValueStudyConfig(**paths, block="report", episodes=0, workers=0))
    with pytest.raises(ConfigError, match="Unknown way of choosing 'best'"):
        ValueStudyConfig(**paths, ways=("best",))
    with pytest.raises(ConfigError, match="states or episodes"):
        ValueStudyConfig(**paths, states=0, episodes=0)
    with pytest.raises(ConfigError, match="tried, candidates >= 2"):
        ValueStudyConfig(**paths, tried=1)
