"""Does a cheap evaluation rank policies as a dear one does? And who wins where both play?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import rankdata

from robopolicy.errors import DataError
from robopolicy.evaluation.statistics import Interval

__all__ = [
    "DRAWS",
    "PRIOR",
    "Agreement",
    "Scores",
    "agreement",
    "bootstrap_mean",
    "bradley_terry",
    "mmrv",
    "pearson",
    "spearman",
    "strengths",
    "wins_of",
]

DRAWS = 2_000
PRIOR = 0.5
"""Wins, and losses, that every policy is given against a policy of strength 0: strengths stay finite."""

Scores = Sequence[float] | np.ndarray
Agreement = Callable[[np.ndarray, np.ndarray], float]
"""From a proxy's scores `[P]` and the reference's `[P]` to one number."""


def mmrv(proxy: Scores, reference: Scores) -> float:
    """Mean maximum rank violation (SIMPLER, Li et al. 2024) of P policies; 0 is the reference's ranking.

    For each policy the largest difference, in reference scores, to any policy that the proxy puts on the
    wrong side of it; then the mean. The reference comes second: the two are not interchangeable.
    """
    cheap, dear = _pair(proxy, reference)
    wrong = np.greater.outer(cheap, cheap) != np.greater.outer(dear, dear)
    return float((np.abs(np.subtract.outer(dear, dear)) * wrong).max(1).mean())


def pearson(proxy: Scores, reference: Scores) -> float:
    """Linear correlation; 0 where one of the two does not vary."""
    cheap, dear = (values - values.mean() for values in _pair(proxy, reference))
    spread = float(np.sqrt((cheap**2).sum() * (dear**2).sum()))
    return float((cheap * dear).sum() / spread) if spread > 0 else 0.0


def spearman(proxy: Scores, reference: Scores) -> float:
    """Correlation of ranks, ties sharing theirs; 0 where one of the two does not vary."""
    return pearson(rankdata(proxy), rankdata(reference))


def agreement(
    metric: Agreement, proxy: np.ndarray, reference: np.ndarray, *, confidence: float = 0.95
) -> Interval:
    """A metric on the mean scores of P policies, bootstrapped over episodes.

    Episodes are drawn for all policies together, since they share their seeds, and for both sides apart.

    Args:
        proxy: scores `[P, E]` of the same E episodes for every policy.
        reference: `[P, F]`.
    """
    cheap, dear = _table(proxy), _table(reference)
    draws = [
        metric(cheap[:, first].mean(1), dear[:, second].mean(1))
        for first, second in zip(_resampled(cheap, 0), _resampled(dear, 1), strict=True)
    ]
    return _interval(metric(cheap.mean(1), dear.mean(1)), np.asarray(draws), confidence)


def bradley_terry(scores: np.ndarray, *, confidence: float = 0.95) -> list[Interval]:
    """Strengths of P policies from paired rollouts: ``P(i beats j) = 1 / (1 + exp(s_j - s_i))``, mean 0.

    Args:
        scores: `[P, E]`, higher is better; in every episode every two policies meet, ties counting half.
    """
    table = _table(scores)
    if len(table) < 2:
        raise DataError(f"A comparison needs at least 2 policies, got {len(table)}.")
    won = wins_of(table)
    count = table.shape[1]
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    draws = strengths(np.einsum("re,ije->rij", drawn, won))
    found = strengths(won.sum(-1))
    return [_interval(float(value), draws[:, i], confidence) for i, value in enumerate(found)]


def wins_of(scores: np.ndarray) -> np.ndarray:
    """Whether policy i beat policy j in each episode, `[P, P, E]`, from `[P, E]`; a tie is half a win."""
    won = (scores[:, None] > scores[None]) + 0.5 * (scores[:, None] == scores[None])
    return np.where(np.eye(len(scores), dtype=bool)[..., None], 0.0, won)


def strengths(wins: np.ndarray, *, prior: float = PRIOR, iterations: int = 200) -> np.ndarray:
    """Most likely strengths `[..., P]`, of mean 0, by minorisation-maximisation (Hunter 2004).

    Args:
        wins: `[..., P, P]`, how often i beat j.
        prior: wins and losses of each against a policy of strength 0.
    """
    met = wins + np.swapaxes(wins, -1, -2)
    merit = np.ones(wins.shape[:-1])
    for _ in range(iterations):
        shared = met / (merit[..., :, None] + merit[..., None, :])
        merit = (wins.sum(-1) + prior) / (shared.sum(-1) + 2 * prior / (merit + 1.0))
    logs = np.log(merit)
    return np.asarray(logs - logs.mean(-1, keepdims=True))


def bootstrap_mean(values: Scores, *, confidence: float = 0.95) -> Interval:
    """Mean of independent values, with percentiles of its bootstrap."""
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or not len(found):
        raise DataError(f"A mean needs at least one value, got {list(found.shape)}.")
    draws = found[np.random.default_rng(0).integers(len(found), size=(DRAWS, len(found)))].mean(1)
    return _interval(float(found.mean()), draws, confidence)


def _pair(proxy: Scores, reference: Scores) -> tuple[np.ndarray, np.ndarray]:
    cheap, dear = np.asarray(proxy, np.float64), np.asarray(reference, np.float64)
    if cheap.shape != dear.shape or cheap.ndim != 1 or len(cheap) < 2:
        raise DataError(
            f"Give one score a policy on both sides, at least 2; got {list(cheap.shape)}, {list(dear.shape)}."
        )
    return cheap, dear


def _table(scores: np.ndarray) -> np.ndarray:
    table = np.asarray(scores, np.float64)
    if table.ndim != 2 or not table.size:
        raise DataError(f"Scores must be [policies, episodes], got {list(table.shape)}.")
    return table


def _resampled(table: np.ndarray, stream: int) -> np.ndarray:
    """Episodes of each bootstrap draw `[R, E]`; fixed seeds, so that a table never changes by itself."""
    count = table.shape[1]
    return np.random.default_rng(stream).integers(count, size=(DRAWS, count))


def _interval(value: float, draws: np.ndarray, confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(value, float(low), float(high))
