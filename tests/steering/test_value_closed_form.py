from __future__ import annotations

import pytest
import torch

from robopolicy.errors import ConfigError, MissingCapability
from robopolicy.steering.value_closed_form import ValueClosedForm, improved
from tests.rl.toy_base import astray, success
from tests.steering.value_toys import critic, first_entry, knowing, seen


def test_no_point_within_the_trust_region_is_better() -> None:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(1, 2, 2, generator=generator)
    drawn = torch.randn(1, 500, 2, 2, generator=generator) * torch.tensor([1.0, 3.0])
    deviations = drawn - drawn.mean(1, keepdim=True)
    slope = torch.randn(1, 2, 2, generator=generator)
    tau = 0.4
    found = improved(mean, deviations, slope, tau)
    flat = deviations[0].flatten(1).double()
    covariance = flat.T @ flat / len(flat)
    step = (found - mean).flatten().double()
    assert float(step @ torch.linalg.solve(covariance, step)) == pytest.approx(2 * tau, rel=1e-4)
    # Brute force: points all over the surface of the same ellipsoid.
    directions = torch.nn.functional.normalize(torch.randn(200_000, 4, generator=generator).double(), dim=1)
    points = (2 * tau) ** 0.5 * directions @ torch.linalg.cholesky(covariance).T
    gains = points @ slope.flatten().double()
    reached = float(step @ slope.flatten().double())
    assert reached >= float(gains.max())
    assert reached == pytest.approx(float(gains.max()), rel=0.02)


def test_no_step_and_no_slope_leave_the_mean() -> None:
    mean, deviations = torch.randn(3, 2, 2), torch.randn(3, 5, 2, 2)
    assert torch.equal(improved(mean, deviations, torch.ones(3, 2, 2), 0.0), mean)
    assert torch.equal(improved(mean, deviations, torch.zeros(3, 2, 2), 1.0), mean)


def test_the_improved_mean_competes_with_the_best_sample() -> None:
    steered = ValueClosedForm.of(astray(spread=0.3), critic(first_entry), candidates=8, tau=2.0)
    steered.sample(seen(20), generator=torch.Generator().manual_seed(0))
    report = steered.ledger.report()
    assert report["q_improved"] > report["q_mean"]
    assert report["q_chosen"] >= max(report["q_improved"], report["q_greedy"]) - 1e-9
    assert 0 < report["improved_taken"] < 1


def test_it_helps_where_values_are_good() -> None:
    base = astray(bias=0.1, spread=0.6)
    assert success(ValueClosedForm.of(base, knowing()).eval()) > success(base) + 0.25


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match="candidates >= 2"):
        ValueClosedForm.of(astray(), knowing(), candidates=1)
    with pytest.raises(MissingCapability, match="lacks noise"):
        ValueClosedForm.of(astray(), knowing()).sample(seen(1), noise=torch.zeros(1, 1, 4, 2))
