"""How sure a success rate is: Wilson for one checkpoint, bootstrap over training seeds for a method."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import norm

from robopolicy.errors import DataError

__all__ = [
    "DRAWS",
    "Difference",
    "Interval",
    "Table",
    "Verdict",
    "method_interval",
    "paired_difference",
    "share_interval",
    "wilson",
]

DRAWS = 10_000
Verdict = Literal["better", "worse", "no difference found"]
Table = Sequence[Sequence[bool]] | np.ndarray
"""Successes `[S, E]`: S training seeds, each evaluated on the same E episodes."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson score interval of a success rate: sensible at 0/n and n/n too; [0, 1] when n is 0."""
    if not 0 <= successes <= n:
        raise DataError(f"{successes} successes in {n} episodes is impossible.")
    if n == 0:
        return Interval(math.nan, 0.0, 1.0)
    z = float(norm.ppf(0.5 + confidence / 2))
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # At the ends the bound is exactly 0 or 1; rounding would leave 1e-17.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Interval(rate, low, high)


def method_interval(table: Table, confidence: float = 0.95) -> Interval:
    """Success rate of a training method from its checkpoints' episodes `[S, E]`.

    Bootstrap over seeds and, within them, over episodes (the same for every seed, as they were run). A
    bootstrap is blind where nothing varies (three times 100 of 100), so the interval is never narrower
    than Wilson's for all episodes together. With one seed it says nothing about other seeds.
    """
    return share_interval(table, np.ones_like(_check(table)), confidence)


def share_interval(hits: Table, of: Table, confidence: float = 0.95) -> Interval:
    """Of the episodes `of`, the share that are `hits`, both `[S, E]`; [0, 1] where there are none.

    Bootstrap over seeds and episodes as in `method_interval`, never narrower than Wilson's either.
    """
    condition = _check(of)
    met = _check(hits) * condition
    pooled = wilson(int(met.sum()), int(condition.sum()), confidence)
    if not condition.any():
        return pooled
    seeds, episodes = _weights(len(condition), 0), _weights(condition.shape[1], 1)
    count, every = (
        np.einsum("rs,se,re->r", seeds, table, episodes, optimize=True) for table in (met, condition)
    )
    low, high = _percentiles(count[every > 0] / every[every > 0], confidence)
    return Interval(pooled.value, min(low, pooled.low), max(high, pooled.high))


@dataclass(frozen=True)
class Difference:
    """Success rate of A minus that of B."""

    interval: Interval
    verdict: Verdict
    """Of A."""

    def __str__(self) -> str:
        i = self.interval
        return f"{self.verdict} ({i.value:+.1%} [{i.low:+.1%}, {i.high:+.1%}])"


def paired_difference(a: Table, b: Table, confidence: float = 0.95) -> Difference:
    """Compare two methods evaluated on the same episodes: successes `[Sa, E]` and `[Sb, E]`.

    Bootstrap over each method's seeds, then over the episodes they share, widened by Newcombe's interval
    for paired proportions, which still doubts where nothing varies (one episode, won by A).

    Raises:
        DataError: the tables do not hold the same number of episodes.
    """
    first, second = _check(a), _check(b)
    if first.shape[1] != second.shape[1]:
        raise DataError(f"Paired episodes are needed, got {first.shape[1]} and {second.shape[1]}.")
    episodes = _weights(first.shape[1], 1)
    means = [
        np.einsum("rs,se,re->r", _weights(len(table), 2 + side), table, episodes, optimize=True)
        for side, table in enumerate((first, second))
    ]
    low, high = _percentiles(means[0] - means[1], confidence)
    newcombe = _newcombe(first, second, confidence)
    interval = Interval(newcombe.value, min(low, newcombe.low), max(high, newcombe.high))
    verdict: Verdict = "no difference found"
    if interval.low > 0:
        verdict = "better"
    elif interval.high < 0:
        verdict = "worse"
    return Difference(interval, verdict)


def _newcombe(first: np.ndarray, second: np.ndarray, confidence: float) -> Interval:
    x, y = first.mean(axis=0), second.mean(axis=0)  # episode means; for single seeds exactly Newcombe's
    p, q = float(x.mean()), float(y.mean())
    varies = x.std() > 0 and y.std() > 0
    phi = float(np.corrcoef(x, y)[0, 1]) if varies else 0.0
    wp = wilson(int(first.sum()), first.size, confidence)
    wq = wilson(int(second.sum()), second.size, confidence)

    def distance(mine: float, theirs: float) -> float:
        return math.sqrt(max(0.0, mine**2 - 2 * phi * mine * theirs + theirs**2))

    low = p - q - distance(p - wp.low, wq.high - q)
    high = p - q + distance(wp.high - p, q - wq.low)
    return Interval(p - q, low, high)


def _check(table: Table) -> np.ndarray:
    lengths = {len(row) for row in table}
    if len(lengths) != 1 or lengths == {0}:
        raise DataError(f"Every seed needs the same episodes, at least one; got {sorted(lengths)} of them.")
    return np.asarray(table, np.float64)


@functools.lru_cache(maxsize=16)
def _weights(count: int, stream: int) -> np.ndarray:
    """Bootstrap draws as mean weights `[R, count]`; fixed seeds, so that a table never changes by itself."""
    draws = np.random.default_rng(stream).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    return draws / count


def _percentiles(values: np.ndarray, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
