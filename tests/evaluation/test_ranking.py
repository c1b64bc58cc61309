from __future__ import annotations

import numpy as np
import pytest

from robopolicy.errors import DataError
from robopolicy.evaluation.ranking import (
    agreement,
    bootstrap_mean,
    bradley_terry,
    mmrv,
    pearson,
    spearman,
    strengths,
    wins_of,
)

# Success rates in simulation and on the real robot, as SIMPLER (Li et al. 2024) publishes them, and the two
# numbers that its own code makes of them.
SIMPLER = {
    "pick_coke_can": (
        [0.787, 0.857, 0.710, 0.567, 0.027, 0.170], [0.907, 0.853, 0.920, 0.760, 0.133, 0.293],
        0.0313, 0.9754,
    ),
    "move_near": (
        [0.779, 0.442, 0.354, 0.317, 0.050, 0.042], [0.733, 0.633, 0.583, 0.450, 0.017, 0.350],
        0.1110, 0.8561,
    ),
    "open_drawer": (
        [0.157, 0.601, 0.463, 0.296, 0.000, 0.009], [0.333, 0.815, 0.704, 0.519, 0.000, 0.148],
        0.0, 0.9832,
    ),
    "close_drawer": (
        [0.343, 0.861, 0.667, 0.891, 0.278, 0.444], [0.630, 0.926, 0.889, 0.741, 0.000, 0.519],
        0.1233, 0.7712,
    ),
    "apple_in_drawer": (
        [0.037, 0.065, 0.130, 0.213, 0.000, 0.000], [0.074, 0.185, 0.185, 0.407, 0.000, 0.000],
        0.0, 0.9692,
    ),
    "spoon_on_towel": ([0.000, 0.125, 0.472], [0.000, 0.333, 0.417], 0.0, 0.8269),
    "carrot_on_plate": ([0.042, 0.083, 0.097], [0.000, 0.250, 0.083], 0.1113, 0.5714),
    "stack_cube": ([0.000, 0.000, 0.042], [0.000, 0.000, 0.125], 0.0, 1.0),
    "eggplant": ([0.000, 0.431, 0.569], [0.000, 0.250, 0.400], 0.0, 0.9894),
}  # fmt: skip


@pytest.mark.parametrize("task", SIMPLER)
def test_published_tables_give_the_published_numbers(task: str) -> None:
    sim, real, violation, correlation = SIMPLER[task]
    assert mmrv(sim, real) == pytest.approx(violation, abs=1e-4)
    assert pearson(sim, real) == pytest.approx(correlation, abs=1e-4)


def test_the_reference_decides_what_a_violation_costs() -> None:
    proxy, reference = [0.1, 0.2], [0.9, 0.3]
    assert mmrv(proxy, reference) == pytest.approx(0.6)
    assert mmrv(reference, proxy) == pytest.approx(0.1)


def test_ranks_ignore_what_keeps_the_order() -> None:
    values = np.array([0.1, 3.0, 0.5, 2.0])
    assert spearman(values, np.exp(values)) == pytest.approx(1.0)
    assert spearman(values, -values) == pytest.approx(-1.0)
    assert spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) == 0.0


def test_an_agreement_of_noisy_episodes_has_an_interval_around_that_of_the_means() -> None:
    rng = np.random.default_rng(0)
    rates = np.array([0.1, 0.5, 0.9])
    proxy = (rng.random((3, 60)) < rates[:, None]).astype(float)
    reference = (rng.random((3, 40)) < rates[:, None]).astype(float)
    found = agreement(pearson, proxy, reference)
    assert found.value == pytest.approx(pearson(proxy.mean(1), reference.mean(1)))
    assert found.low <= found.value <= found.high
    assert 0.8 < found.low < found.high <= 1.0


def test_strengths_of_two_are_the_log_odds() -> None:
    wins = np.array([[0.0, 30.0], [10.0, 0.0]])
    first, second = strengths(wins, prior=0.0)
    assert first - second == pytest.approx(np.log(3.0), abs=1e-6)


def test_strengths_maximise_the_likelihood() -> None:
    rng = np.random.default_rng(1)
    wins = rng.integers(1, 20, (4, 4)).astype(float)
    np.fill_diagonal(wins, 0.0)

    def likelihood(values: np.ndarray) -> float:
        return float(-(wins * np.log1p(np.exp(values[None] - values[:, None]))).sum())

    found = strengths(wins, prior=0.0, iterations=2000)
    for _ in range(50):
        assert likelihood(found) > likelihood(found + rng.normal(0, 0.05, 4))
    assert np.abs(strengths(wins)).max() < np.abs(found).max()  # the prior draws strengths together


def test_a_policy_that_always_wins_is_strongest_and_finite() -> None:
    scores = np.array([[1.0] * 20, [0.0] * 20, [0.0] * 10 + [1.0] * 10])
    found = bradley_terry(scores)
    values = [interval.value for interval in found]
    assert values[0] > values[2] > values[1]
    assert np.isfinite(values).all()
    assert found[0].low > found[1].high
    assert wins_of(scores)[0, 2].sum() == 15.0  # ten wins, ten ties


def test_a_mean_has_an_interval() -> None:
    found = bootstrap_mean(np.arange(100.0))
    assert found.value == 49.5
    assert 43 < found.low < 49.5 < found.high < 56


def test_tables_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(DataError, match="one score a policy"):
        mmrv([0.1], [0.2])
    with pytest.raises(DataError, match="one score a policy"):
        pearson([0.1, 0.2], [0.2, 0.3, 0.4])
    with pytest.raises(DataError, match=r"\[policies, episodes\]"):
        agreement(pearson, np.zeros(3), np.zeros((3, 2)))
    with pytest.raises(DataError, match="at least 2 policies"):
        bradley_terry(np.zeros((1, 5)))
    with pytest.raises(DataError, match="at least one value"):
        bootstrap_mean([])
