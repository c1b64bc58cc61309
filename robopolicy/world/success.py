"""When imagined frames are a success: a threshold and how long, chosen on held-out episodes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from robopolicy.errors import DataError

__all__ = ["MOST_FALSE", "STREAKS", "THRESHOLDS", "Rule", "choose_rule", "longest_run"]

THRESHOLDS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999)
STREAKS = (1, 2, 3, 5, 8)
MOST_FALSE = 0.02


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A success is `consecutive` frames in a row above `threshold`."""

    threshold: float
    consecutive: int
    false_success: float
    """Share of held-out failures that are imagined as successes."""
    failures: int
    """Held-out failures."""
    true_success: float
    """Share of held-out successes that are imagined as such."""
    successes: int


def choose_rule(score: np.ndarray, recorded: np.ndarray, succeeded: np.ndarray) -> Rule:
    """Of the rules with false successes below 2%, the one that finds most true ones.

    Where none of these finds any, the rule with the largest difference of true and false ones, and a warning.

    Args:
        score: the success model's output along replayed held-out episodes, `[N, T]`.
        recorded: which steps of them were recorded, bool `[N, T]`.
        succeeded: whether each really succeeded, bool `[N]`.

    Raises:
        DataError: no failures are held out, or no successes.
    """
    if succeeded.all() or not succeeded.any():
        missing = "failures" if succeeded.all() else "successes"
        raise DataError(
            f"Among the {len(succeeded)} held-out episodes there are no {missing}; when an imagined episode "
            "succeeds cannot be set. Record more episodes (of a policy, or at random), or raise validation."
        )
    rules = []
    for threshold in THRESHOLDS:
        high = (score > threshold) & recorded
        longest = longest_run(high)
        for consecutive in STREAKS:
            said = longest >= consecutive
            rules.append(
                Rule(
                    threshold=threshold,
                    consecutive=consecutive,
                    false_success=float(said[~succeeded].mean()),
                    failures=int((~succeeded).sum()),
                    true_success=float(said[succeeded].mean()),
                    successes=int(succeeded.sum()),
                )
            )
    strict = [rule for rule in rules if rule.false_success < MOST_FALSE and rule.true_success > 0]
    if strict:
        return max(strict, key=lambda rule: (rule.true_success, rule.threshold, -rule.consecutive))
    best = max(rules, key=lambda rule: (rule.true_success - rule.false_success, rule.threshold))
    warnings.warn(
        f"No rule of success finds a held-out success with less than {MOST_FALSE:.0%} false ones. Taken is "
        f"{best}; a longer training, or more recorded episodes, should do better.",
        stacklevel=2,
    )
    return best


def longest_run(flags: np.ndarray) -> np.ndarray:
    """Length of the longest run of True in each row of bool `[N, T]`."""
    best = np.zeros(len(flags), np.int64)
    run = np.zeros(len(flags), np.int64)
    for column in flags.T:
        run = np.where(column, run + 1, 0)
        best = np.maximum(best, run)
    return best
