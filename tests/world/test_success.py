from __future__ import annotations

import numpy as np
import pytest

from robopolicy.errors import DataError
from robopolicy.world.success import choose_rule, longest_run


def test_the_longest_run() -> None:
    flags = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 1, 1]], bool)
    assert longest_run(flags).tolist() == [2, 0, 3]


def test_the_rule_finds_most_successes_among_those_without_false_ones() -> None:
    score = np.zeros((6, 10))
    score[0, 2:4] = 0.96  # a failure that looks like a success for two frames
    score[3:, 5:] = 0.97  # successes
    succeeded = np.array([False] * 3 + [True] * 3)
    rule = choose_rule(score, np.ones_like(score, bool), succeeded)
    assert rule.false_success == 0
    assert rule.true_success == 1
    assert rule.consecutive > 2
    assert (rule.failures, rule.successes) == (3, 3)


def test_unrecorded_steps_do_not_count() -> None:
    score = np.zeros((2, 6))
    score[0, 3:] = 1.0
    score[1, :3] = 1.0
    recorded = np.arange(6) < np.array([[3], [6]])
    rule = choose_rule(score, recorded, np.array([False, True]))
    assert (rule.false_success, rule.true_success) == (0, 1)


def test_where_no_strict_rule_finds_anything_the_best_of_the_others_is_taken_aloud() -> None:
    score = np.ones((4, 10))
    score[:2, 4:] = 0.0  # failures that look like successes for a while
    succeeded = np.array([False, False, True, True])
    assert choose_rule(score, np.ones_like(score, bool), succeeded).consecutive == 5
    score[:2] = 1.0
    with pytest.warns(UserWarning, match="No rule of success finds"):
        assert choose_rule(score, np.ones_like(score, bool), succeeded).false_success == 1


@pytest.mark.parametrize(("succeeded", "missing"), [(True, "failures"), (False, "successes")])
def test_it_takes_failures_and_successes(succeeded: bool, missing: str) -> None:
    with pytest.raises(DataError, match=f"no {missing}"):
        choose_rule(np.zeros((3, 4)), np.ones((3, 4), bool), np.full(3, succeeded))
