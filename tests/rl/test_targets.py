from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robopolicy.errors import ConfigError
from robopolicy.rl.targets import advantages, chunk_reward


def rows(seed: int, length: int, lanes: int) -> dict[str, np.ndarray]:
    """Random chunks: episodes end early in either way, and some rows were lost."""
    rng = np.random.default_rng(seed)
    shape = (length, lanes)
    kind = rng.choice(4, shape, p=[0.6, 0.15, 0.15, 0.1])
    return {
        "rewards": rng.normal(size=shape),
        "discounts": 0.9 ** rng.integers(1, 5, shape),
        "values": rng.normal(size=shape),
        "next_values": rng.normal(size=shape),
        "terminated": kind == 1,
        "truncated": kind == 2,
        "lost": kind == 3,
    }


def brute_advantage(r: dict[str, np.ndarray], t: int, b: int, lam: float) -> float:
    """sum_k (product of lambda and discounts) * surprise, up to the end of the episode."""
    if r["lost"][t, b]:
        return 0.0
    total, factor = 0.0, 1.0
    for k in range(t, len(r["rewards"])):
        if r["lost"][k, b]:
            break
        bootstrap = 0.0 if r["terminated"][k, b] else r["next_values"][k, b]
        total += factor * (r["rewards"][k, b] + r["discounts"][k, b] * bootstrap - r["values"][k, b])
        if r["terminated"][k, b] or r["truncated"][k, b]:
            break
        factor *= lam * r["discounts"][k, b]
    return total


@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_advantages_are_those_of_brute_force(seed: int, length: int, lam: float) -> None:
    r = rows(seed, length, 3)
    found = advantages(**r, lam=lam)
    expected = [[brute_advantage(r, t, b, lam) for b in range(3)] for t in range(length)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_with_the_true_value_nothing_surprises_whatever_the_lambda() -> None:
    gamma, reward = 0.95, np.ones((20, 1))
    value = np.full((20, 1), 1 / (1 - gamma))
    none = np.zeros((20, 1), bool)
    for truncated in (none, np.arange(20)[:, None] % 7 == 6):
        found = advantages(reward, np.full((20, 1), gamma), value, value, none, truncated, lam=0.9)
        np.testing.assert_allclose(found, 0, atol=1e-12)


@pytest.mark.parametrize("steps", [0, 1, 3, 4])
def test_a_chunk_that_ends_early_is_discounted_by_its_steps(steps: int) -> None:
    rewards = np.where(np.arange(4) < steps, [1.0, 2.0, 3.0, 4.0], 0.0)[None]
    count = np.array([steps])
    reward, discount = chunk_reward(rewards, count, 0.5)
    assert reward[0] == sum(r * 0.5**j for j, r in enumerate(rewards[0]))
    assert discount[0] == 0.5**steps
    summed, per_chunk = chunk_reward(rewards, count, 0.5, "chunk")
    assert (summed[0], per_chunk[0]) == (rewards.sum(), 0.5)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"gamma must be in \(0, 1\], got 1.5"):
        chunk_reward(np.zeros((1, 2)), np.ones(1), 1.5)
