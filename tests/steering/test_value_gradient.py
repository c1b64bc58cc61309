from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from robopolicy.errors import ConfigError, MissingCapability
from robopolicy.registry import build
from robopolicy.steering.value_gradient import ValueGradient, climbing
from tests.rl.toy_base import TASK, astray
from tests.rl.toy_policy import toy_policy
from tests.steering.value_toys import critic, first_entry, seen

MEAN = torch.tensor([[0.3, -0.2], [0.0, 0.5]])
SLOPE = torch.tensor([[3.0, 4.0], [0.0, 2.5]])
"""Its largest row has length 5."""


def gaussian(mean: Tensor) -> object:
    """The ideal denoiser of N(mean, 1)."""
    return lambda x, sigma: mean + (x - mean) / (1 + sigma[:, None, None] ** 2)


def linear(x: Tensor) -> Tensor:
    return (x * SLOPE).sum((1, 2))


def test_a_gaussian_climbing_a_line_is_the_gaussian_whose_mean_moved_by_the_strength() -> None:
    x = torch.randn(50, 2, 2, generator=torch.Generator().manual_seed(0))
    sigma = torch.linspace(0.01, 20.0, 50)
    steered = climbing(gaussian(MEAN), linear, 0.7)  # type: ignore[arg-type]
    moved = gaussian(MEAN + 0.7 * SLOPE / 5)
    torch.testing.assert_close(steered(x, sigma), moved(x, sigma))  # type: ignore[operator]


def test_so_do_its_samples() -> None:
    sampler = build("sampler", {"name": "ddim", "steps": 40}, train_steps=100, schedule="squaredcos_cap_v2")
    noise = torch.randn(4000, 2, 2, generator=torch.Generator().manual_seed(0))
    steered = climbing(gaussian(MEAN), linear, 0.7)  # type: ignore[arg-type]
    found = sampler.solve(steered, sampler.start(noise))
    torch.testing.assert_close(found.mean(0), MEAN + 0.7 * SLOPE / 5, rtol=0, atol=0.06)
    assert float(found.std(0).mean()) == pytest.approx(1.0, abs=0.05)


def test_below_the_stop_and_on_flat_ground_nothing_moves() -> None:
    x, sigma = torch.randn(4, 2, 2), torch.full((4,), 0.5)
    plain = gaussian(MEAN)
    stopped = climbing(plain, linear, 1.0, stop=0.6)  # type: ignore[arg-type]
    flat = climbing(plain, lambda x: 0 * x.sum((1, 2)), 1.0)  # type: ignore[arg-type]
    for steered in (stopped, flat):
        assert torch.equal(steered(x, sigma), plain(x, sigma))  # type: ignore[operator]


def test_values_of_a_policys_chunks_rise_with_the_strength_and_none_is_the_policy() -> None:
    base, now = toy_policy(TASK), seen(20)
    found = []
    for strength in (0.0, 0.1, 0.3):
        steered = ValueGradient.of(base, critic(first_entry), strength=strength)
        actions = steered.sample(now, generator=torch.Generator().manual_seed(0)).actions
        found.append(steered.ledger.report()["q_chosen"])
        if strength == 0:
            plain = base.sample(now, generator=torch.Generator().manual_seed(0)).actions
            np.testing.assert_array_equal(actions, plain)
    assert found[0] < found[1] < found[2]


def test_what_has_no_denoiser_is_refused() -> None:
    with pytest.raises(MissingCapability, match="no denoiser"):
        ValueGradient.of(astray(), critic())
    with pytest.raises(ConfigError, match="strength, stop >= 0"):
        ValueGradient.of(toy_policy(), critic(), strength=-1.0)
