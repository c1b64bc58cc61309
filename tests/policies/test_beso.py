from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from robopolicy.data.windows import Batch
from robopolicy.errors import ConfigError
from robopolicy.policies.beso import BESOPolicy
from tests.policies.toys import NETWORK, SPEC, make, observation


def beso(**settings: Any) -> BESOPolicy:
    policy = make("beso", network=NETWORK, **settings)
    assert isinstance(policy, BESOPolicy)
    return policy


def test_training_noise_is_truncated_log_logistic() -> None:
    policy = beso()
    drawn = policy.draw_noise(200_000, torch.Generator().manual_seed(0)).double()
    assert policy.config.sigma_low <= float(drawn.min()) < 0.006
    assert 9.5 < float(drawn.max()) <= policy.config.sigma_high * (1 + 1e-6)
    for sigma in (0.02, 0.2, 2.0):
        cdf = [
            1 / (1 + np.exp(-(np.log(s) - policy.config.location) / policy.config.scale))
            for s in (0.005, sigma, 10.0)
        ]
        expected = (cdf[1] - cdf[0]) / (cdf[2] - cdf[0])
        assert float((drawn < sigma).double().mean()) == pytest.approx(expected, abs=0.005)


def test_preconditioning_gives_the_network_unit_variances() -> None:
    """For data of the assumed deviation, input and target of the network have variance 1 at every level."""
    policy = beso(deviation=0.3)
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(50_000, 1, 1, generator=generator) for _ in range(2))
    for level in (0.01, 0.3, 1.0):
        sigma = torch.full((1,), level)
        keep, out, scale = policy._scales(sigma)
        noisy = 0.3 * clean + level * noise
        assert float((noisy * scale).std()) == pytest.approx(1, rel=0.02)
        assert float(((0.3 * clean - keep * noisy) / out).std()) == pytest.approx(1, rel=0.02)


def test_weight_1_is_the_conditional_policy_bit_for_bit() -> None:
    plain, guided = beso(), beso(guidance=1.5)
    other = beso(guidance=1.5)
    other.config = replace(other.config, guidance=1.0)
    seen, noise = observation(3), torch.randn(3, 2, 8, 2)
    first = plain.sample(seen, n=2, noise=noise)
    np.testing.assert_array_equal(other.sample(seen, n=2, noise=noise).actions, first.actions)
    strong = guided.sample(seen, n=2, noise=noise)
    assert np.abs(strong.actions - first.actions).max() > 1e-4
    assert (first.calls, strong.calls) == (5, 10)


def test_weight_0_does_not_see_the_goal() -> None:
    policy, seen, noise = beso(guidance=0.0), observation(2), torch.randn(2, 1, 8, 2)
    moved = {**seen, "goal/state": seen["goal/state"] + 1}
    first = policy.sample(seen, noise=noise)
    np.testing.assert_array_equal(policy.sample(moved, noise=noise).actions, first.actions)
    sighted = beso()
    changed = sighted.sample(moved, noise=noise).actions != sighted.sample(seen, noise=noise).actions
    assert changed.any()
    assert first.calls == 5


@pytest.mark.slow
def test_goals_are_hidden_in_training_and_reached_in_use() -> None:
    """Actions are the goal's first two numbers; without the goal they are spread over [-1, 1]."""
    policy, generator = beso(goal_dropout=0.2), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    for _ in range(900):
        goal = torch.rand(128, 1, 3, generator=generator) * 2 - 1
        seen = {"state": torch.zeros(128, 2, 3), "goal/state": goal.expand(-1, 2, -1)}
        loss, _ = policy(Batch(observation=seen, action=goal[..., :2].expand(-1, 8, -1)), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    goal = torch.rand(256, 1, 3, generator=generator) * 2 - 1
    seen = {"state": torch.zeros(256, 2, 3), "goal/state": goal.expand(-1, 2, -1)}
    found = policy.sample(seen, generator=generator).actions[:, 0]
    assert float((found - goal[..., :2]).abs().mean()) < 0.15
    policy.config = replace(policy.config, guidance=0.0)
    blind = policy.sample(seen, generator=generator).actions[:, 0, 0, 0]
    assert float(blind.std()) > 0.35
    correlation = torch.corrcoef(torch.stack([blind, goal[:, 0, 0]]))[0, 1]
    assert abs(float(correlation)) < 0.25


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="sigma_low < sigma_high"):
        beso(sigma_low=20.0)
    with pytest.raises(ConfigError, match="goal_dropout > 0"):
        beso(goal_dropout=0.0, guidance=2.0)
    with pytest.raises(ConfigError, match="needs a goal among the observations"):
        make("beso", spec=SPEC.select(["state"]), network=NETWORK, guidance=2.0)
    plain = make("beso", spec=SPEC.select(["state"]), network=NETWORK)
    assert plain.sample(observation(2, spec=plain.spec)).actions.shape == (2, 1, 8, 2)
