from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from robopolicy.errors import DataError
from robopolicy.evaluation.statistics import (
    method_interval,
    paired_difference,
    share_interval,
    wilson,
)


@pytest.mark.parametrize("n", [1, 7, 100])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_wilson_equals_scipy(n: int, confidence: float) -> None:
    for successes in range(n + 1):
        ours = wilson(successes, n, confidence)
        theirs = binomtest(successes, n).proportion_ci(confidence, method="wilson")
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
        assert 0 <= ours.low <= ours.value <= ours.high <= 1


def test_wilson_covers_the_truth_about_as_often_as_it_says() -> None:
    n = 100
    counts = np.arange(n + 1)
    intervals = [wilson(int(k), n) for k in counts]
    coverages = []
    for truth in np.linspace(0.05, 0.95, 19):
        covered = np.array([i.low <= truth <= i.high for i in intervals])
        coverages.append(float(binom.pmf(counts, n, truth)[covered].sum()))
    assert min(coverages) > 0.92
    assert np.mean(coverages) == pytest.approx(0.95, abs=0.01)


def test_wilson_at_the_ends() -> None:
    none, all_ = wilson(0, 20), wilson(20, 20)
    assert none.low == 0.0
    assert 0.1 < none.high < 0.2
    assert all_.high == 1.0
    assert all_.low == pytest.approx(1 - none.high)
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)
    with pytest.raises(DataError, match="5 successes in 4"):
        wilson(5, 4)


@pytest.mark.parametrize("outcome", [0, 1])
def test_a_method_that_never_varies_is_still_not_certain(outcome: int) -> None:
    interval = method_interval(np.full((3, 50), outcome))
    assert interval.value == outcome
    assert interval.high - interval.low > 0.01


def test_one_seed_agrees_with_wilson_in_the_middle() -> None:
    table = [[True] * 60 + [False] * 40]
    ours, reference = method_interval(table), wilson(60, 100)
    assert (ours.low, ours.high) == pytest.approx((reference.low, reference.high), abs=0.015)


def test_seeds_that_disagree_widen_the_interval() -> None:
    same = np.tile(np.arange(100) < 60, (3, 1))
    different = np.stack([np.arange(100) < k for k in (30, 60, 90)])
    narrow, wide = method_interval(same), method_interval(different)
    assert narrow.value == wide.value == pytest.approx(0.6)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_method_interval_covers_the_mean_over_seeds_and_episodes() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        skill = generator.normal(0.7, 0.08, 5).clip(0, 1)
        interval = method_interval(generator.random((5, 100)) < skill[:, None])
        hits += interval.low <= 0.7 <= interval.high
    assert hits >= 48


def test_the_same_input_gives_the_same_interval() -> None:
    table = np.random.default_rng(1).random((3, 40)) < 0.5
    assert method_interval(table) == method_interval(table)


def test_difference_of_equal_methods_is_not_found() -> None:
    table = np.random.default_rng(2).random((3, 100)) < 0.7
    assert paired_difference(table, table).verdict == "no difference found"


def test_difference_has_a_sign_and_is_antisymmetric() -> None:
    generator = np.random.default_rng(3)
    good, bad = generator.random((3, 100)) < 0.95, generator.random((3, 100)) < 0.4
    forward, backward = paired_difference(good, bad), paired_difference(bad, good)
    assert (forward.verdict, backward.verdict) == ("better", "worse")
    assert forward.interval.value == pytest.approx(-backward.interval.value)
    assert forward.interval.low == pytest.approx(-backward.interval.high, abs=0.02)


def test_false_alarms_are_rare() -> None:
    generator = np.random.default_rng(4)
    found = 0
    for _ in range(100):
        a, b = (generator.random((3, 60)) < 0.6 for _ in range(2))
        found += paired_difference(a, b).verdict != "no difference found"
    assert found <= 10


def test_pairing_sees_what_separate_intervals_hide() -> None:
    hard = np.arange(100) < 50
    base = ~hard
    improved = base.copy()
    improved[:12] = True  # 12 of the hard episodes become easy, none is lost
    separate = method_interval([base]), method_interval([improved])
    assert separate[0].high > separate[1].low
    assert paired_difference([improved], [base]).verdict == "better"


def test_a_single_won_episode_proves_nothing() -> None:
    assert paired_difference([[True]], [[False]]).verdict == "no difference found"


def test_tables_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(DataError, match="10 and 20"):
        paired_difference(np.ones((1, 10)), np.ones((1, 20)))
    with pytest.raises(DataError, match="same episodes"):
        method_interval([[True, False], [True]])
    with pytest.raises(DataError, match="at least one"):
        method_interval([[]])


def test_a_share_is_of_those_that_meet_the_condition() -> None:
    hits, of = np.zeros((2, 60), bool), np.zeros((2, 60), bool)
    hits[:, :20], of[:, 10:40] = True, True
    share = share_interval(hits, of)
    assert share.value == pytest.approx(1 / 3)
    assert share.low <= wilson(20, 60).low < wilson(20, 60).high <= share.high
    nobody = share_interval(hits, np.zeros_like(of))
    assert np.isnan(nobody.value)
    assert (nobody.low, nobody.high) == (0.0, 1.0)


def test_a_share_of_all_episodes_is_a_methods_rate() -> None:
    table = np.random.default_rng(0).random((3, 50)) < [[0.2], [0.5], [0.8]]
    share, rate = share_interval(table, np.ones_like(table)), method_interval(table)
    assert (share.value, share.low, share.high) == pytest.approx((rate.value, rate.low, rate.high))
