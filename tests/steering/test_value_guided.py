from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robopolicy.errors import ConfigError, MissingCapability
from robopolicy.evaluation.run import EvaluateConfig, run_evaluation
from robopolicy.policies.policy import Policy, Request
from robopolicy.registry import build
from robopolicy.rollout import PolicyActor, run_episodes
from robopolicy.seeding import episode_seeds
from robopolicy.steering.value_guided import ValueGuided, standardised
from robopolicy.vector import LaneVectorEnv
from tests.policies.toys import generators
from tests.rl.toy_base import TASK, astray, success
from tests.rl.toy_policy import saved, toy_policy
from tests.steering.value_toys import critic, first_entry, knowing, seen


def played(policy: Policy, episodes: int = 6) -> list[bytes]:
    envs = LaneVectorEnv(TASK, 3, chunk=4)
    runs = run_episodes(envs, PolicyActor(policy), episode_seeds("select", episodes), record=True)
    tables = {episode.seed: episode.data["action"].tobytes() for episode in runs}
    envs.close()
    return [tables[seed] for seed in sorted(tables)]


@pytest.mark.parametrize("rule", ["softmax", "argmax", "random"])
@pytest.mark.parametrize("sampler", [{"name": "ddim", "steps": 3}, {"name": "ddpm", "steps": 3}])
def test_one_candidate_is_the_policy_bit_for_bit(rule: str, sampler: dict[str, Any]) -> None:
    base = toy_policy(TASK, sampler=sampler)
    steered = ValueGuided.of(base, critic(), candidates=1, rule=rule)
    assert played(steered) == played(base)
    assert steered.ledger.report()["q_first"] == steered.ledger.report()["q_chosen"]


def test_the_best_of_the_candidates_is_picked() -> None:
    base, heard = astray(spread=0.5), []

    def listening(state: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        heard.append(encoded)
        return first_entry(state, encoded)

    valuing = critic(listening)
    steered = ValueGuided.of(base, valuing, candidates=8, rule="argmax")
    now = seen(5)
    actions = torch.as_tensor(steered.sample(now, generator=torch.Generator().manual_seed(0)).actions)[:, 0]
    offered = heard[0].view(5, 8, -1)
    taken = valuing.encode(actions, {key: torch.as_tensor(value) for key, value in now.items()})
    best = offered[torch.arange(5), offered[..., 0].argmax(1)]
    torch.testing.assert_close(taken, best, rtol=0, atol=1e-6)
    report = steered.ledger.report()
    assert report["q_chosen"] == report["q_greedy"] > report["q_random"]
    assert report["chunks"] == 5
    assert report["seconds_policy"] > 0


def chosen(rule: str, beta: float, values: torch.Tensor) -> torch.Tensor:
    steered = ValueGuided.of(astray(), critic(), candidates=values.shape[1], rule=rule, beta=beta)
    request = Request(torch.zeros(len(values), 1, 4, 2), torch.Generator().manual_seed(0))
    return torch.bincount(steered._choose(values, request), minlength=values.shape[1])


def test_softmax_chooses_as_often_as_it_should_whatever_the_unit_of_values() -> None:
    values = torch.tensor([[1.0, 2.0, 4.0]])
    expected = (standardised(values) / 0.7).softmax(1)[0]
    counts = chosen("softmax", 0.7, values.expand(8000, 3))
    torch.testing.assert_close(counts / 8000, expected, rtol=0, atol=0.02)
    assert torch.equal(counts, chosen("softmax", 0.7, (100 * values - 50).expand(8000, 3)))
    assert chosen("random", 0.7, values.expand(6000, 3)).min() > 1850
    assert chosen("argmax", 0.7, values.expand(10, 3)).tolist() == [0, 0, 10]
    assert chosen("softmax", 1e-3, values.expand(10, 3)).tolist() == [0, 0, 10]


def test_equal_values_leave_the_choice_to_chance() -> None:
    assert chosen("softmax", 1.0, torch.ones(6000, 3)).min() > 1850


def test_identical_candidates_are_announced_at_once_and_counted() -> None:
    steered = ValueGuided.of(astray(spread=0.0), knowing(), candidates=4)
    with pytest.warns(UserWarning, match="All 4 candidates are identical: Astray does not sample"):
        steered.sample(seen(3))
    assert steered.ledger.report()["identical"] == 1.0
    assert steered.ledger.report()["spread"] == 0.0


def test_a_row_does_not_depend_on_its_batch() -> None:
    steered = ValueGuided.of(toy_policy(TASK), knowing(), candidates=6)
    now = seen(3)
    together = steered.sample(now, generator=generators(1, 2, 3)).actions
    alone = steered.sample({k: v[1:2] for k, v in now.items()}, generator=generators(2)).actions
    np.testing.assert_allclose(together[1:2], alone, atol=1e-5)


def test_several_chunks_are_each_the_best_of_their_own_candidates() -> None:
    steered = ValueGuided.of(astray(spread=0.5), critic(first_entry), candidates=5, rule="argmax")
    found = steered.sample(seen(2), n=7, generator=torch.Generator().manual_seed(0))
    assert found.actions.shape == (2, 7, 4, 2)
    assert len(np.unique(found.actions[0, :, 0, 0])) == 7


@pytest.mark.slow
def test_choosing_by_a_good_value_helps_and_choosing_any_does_not() -> None:
    base = astray(bias=0.1, spread=0.6)
    rates = {
        rule: success(ValueGuided.of(base, knowing(), candidates=16, rule=rule).eval())
        for rule in ("argmax", "random")
    }
    assert rates["argmax"] > success(base) + 0.25
    assert abs(rates["random"] - success(base)) < 0.2


def test_candidates_are_halved_until_they_fit_into_the_time_there_is() -> None:
    steered = ValueGuided.of(astray(), knowing(), candidates=32, beta=0.5)

    def latency(policy: Policy) -> float:
        assert isinstance(policy, ValueGuided)
        return 0.001 * policy.config.candidates

    with pytest.warns(UserWarning, match="32 candidates do not fit into 10.0 ms; 8 take 8.0 ms"):
        fewer = steered.capped(0.010, latency)
    assert (fewer.config.candidates, fewer.config.beta) == (8, 0.5)
    assert steered.capped(1.0, latency).config.candidates == 32
    with pytest.warns(UserWarning, match="1 take 1.0 ms"):
        assert steered.capped(1e-4, latency).config.candidates == 1
    measured = steered.capped(60.0)
    assert measured.config.candidates == 32
    assert measured.ledger.report()["chunks"] == 0


def test_it_is_said_on_the_command_line_and_its_numbers_are_kept(tmp_path: Path) -> None:
    from robopolicy.learning.checkpoint import save_checkpoint

    base = saved(astray(spread=0.5), tmp_path / "policy")
    save_checkpoint(tmp_path / "values", critic())
    steer = {"name": "value", "critic": str(tmp_path / "values"), "candidates": 4}
    outcome = run_evaluation(
        EvaluateConfig(checkpoint=str(base), steer=steer, episodes=3, lanes=3, workers=0, video=0),
        progress=False,
    )
    assert outcome.directory.name == "evaluation_value"
    found = json.loads((outcome.directory / "steering.json").read_text())
    assert {"spread", "identical", "q_first", "q_random", "q_greedy", "q_chosen"} <= found.keys()


def test_episodes_that_taught_the_critic_are_not_reported() -> None:
    valuing = knowing()
    valuing.provenance = type(valuing.provenance)(used_seeds=(7, 8))
    assert ValueGuided.of(astray(), valuing).provenance.used_seeds == (1, 2, 3, 7, 8)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"steer\.critic=outputs"):
        build("steer", {"name": "value"}, policy=astray())
    with pytest.raises(ConfigError, match="candidates >= 1 and beta > 0"):
        ValueGuided.of(astray(), knowing(), beta=0.0)
    steered = ValueGuided.of(astray(), knowing(), candidates=2)
    with pytest.raises(MissingCapability, match="lacks noise"):
        steered.sample(seen(1), noise=torch.zeros(1, 1, 4, 2))
    alone = ValueGuided.of(astray(), knowing(), candidates=1)
    assert np.isfinite(alone.sample(seen(1), noise=torch.zeros(1, 1, 4, 2)).actions).all()
