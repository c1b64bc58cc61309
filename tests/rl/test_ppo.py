from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from robopolicy.errors import ConfigError, MissingCapability
from robopolicy.evaluation.evaluate import evaluate
from robopolicy.learning.checkpoint import load, save_checkpoint
from robopolicy.policies.gaussian import GaussianPolicy
from robopolicy.rl.ppo import PPO, PPOConfig
from robopolicy.rollout import PolicyActor
from robopolicy.vector import LaneVectorEnv
from tests.rl.toy_policy import cloned_policy, toy_policy
from tests.toy_env import toy_task

GAUSSIAN: dict[str, Any] = {"name": "gaussian", "width": 64, "blocks": 1, "network": None, "sampler": None}


def make(policy: Any = None, lanes: int = 4, **changes: Any) -> PPO:
    envs = LaneVectorEnv(toy_task(), lanes, chunk=4, success_hold=-1)
    config = PPOConfig(**{"chunks": 5, "epochs": 2, "batch_size": 8, **changes})
    return PPO(config, policy=policy or toy_policy(**GAUSSIAN), envs=envs, seed=0)


def test_the_cap_is_shared_by_sampling_and_density() -> None:
    refiner = make(toy_policy(**GAUSSIAN, min_std=0.5), min_std=0.01, max_std=0.05)
    condition = refiner._look()[1].repeat(500, 1, 1)
    drawn = refiner.draw(condition)
    mean = refiner.tuned.within(condition, 0.05, 0.05)[0]
    assert float((drawn.code - mean).detach().std()) == pytest.approx(0.05, rel=0.05)
    normal = torch.distributions.Normal(mean, 0.05).log_prob(drawn.code).clamp(-5, 2).mean((1, 2))
    torch.testing.assert_close(drawn.log_prob[:, 0], normal, rtol=1e-4, atol=1e-4)


def test_a_deviation_below_the_lower_bound_is_raised_while_practising() -> None:
    refiner = make(toy_policy(**GAUSSIAN, min_std=1e-4, max_std=2e-4), min_std=0.07)
    condition = refiner._look()[1].repeat(500, 1, 1)
    drawn = refiner.draw(condition)
    mean = refiner.tuned.moments(condition)[0]
    assert float((drawn.code - mean).detach().std()) == pytest.approx(0.07, rel=0.05)


def test_first_ratios_are_one_and_rows_that_are_not_executed_do_not_count() -> None:
    refiner = make(toy_policy(**GAUSSIAN, obs_horizon=2, pred_horizon=8))
    rollout, _ = refiner.practise()
    stage = torch.zeros(6, dtype=torch.long)
    after = rollout.trace[:6, 1].clone()
    found = refiner.log_prob(rollout.condition[:6], rollout.trace[:6, 0], after, stage)
    torch.testing.assert_close(found, rollout.log_prob[:6, 0], rtol=0, atol=1e-5)
    after[:, [0, 5, 6, 7]] += 1
    assert torch.equal(refiner.log_prob(rollout.condition[:6], after, after, stage), found)


def test_it_resumes_bit_for_bit_and_is_saved(tmp_path: Any) -> None:
    whole, first, second = make(), make(), make()
    for _ in range(3):
        whole.advance()
    first.advance()
    second.load_tensors({name: value.clone() for name, value in first.tensors().items()})
    second.restore(first.state())
    for _ in range(2):
        second.advance()
    for (name, a), b in zip(whole.tensors().items(), second.tensors().values(), strict=True):
        assert torch.equal(a, b), name
    save_checkpoint(tmp_path / "policy", whole.refined())
    seen = whole.practice.view.observation
    actions = [
        p.sample(seen, generator=torch.Generator().manual_seed(0)).actions
        for p in (whole.refined(), load(tmp_path / "policy"))
    ]
    np.testing.assert_array_equal(*actions)


def test_policies_without_a_gaussian_are_refused() -> None:
    with pytest.raises(MissingCapability, match="lacks density"):
        make(toy_policy())
    with pytest.raises(ConfigError, match="not PPOPolicy"):
        make(make().refined())


@pytest.mark.slow
def test_it_makes_an_unreliable_clone_reliable() -> None:
    task = toy_task(horizon=16, env={"speed": 0.2, "reach": 0.05}, noise=0.3)
    base = cloned_policy(task, episodes=6, updates=60, **GAUSSIAN)
    assert isinstance(base, GaussianPolicy)
    envs = LaneVectorEnv(task, 32, chunk=4, success_hold=-1)
    config = PPOConfig(chunks=16, epochs=5, batch_size=170, actor_rate=5e-4, clip=0.03, gamma=0.98)
    refiner = PPO(config, policy=base, envs=envs, seed=0)

    def success() -> float:
        actor = PolicyActor(refiner.refined())
        found = evaluate(actor, task, episodes=200, block="select", lanes=100, workers=0, progress=False)
        return found.success_rate

    before = success()
    for _ in range(20):
        refiner.advance()
    assert before < 0.5
    assert success() > before + 0.2
