"""Timing of alternatives that take turns, so that a busy moment of the machine hits all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from robopolicy.registry import plain

__all__ = ["Times", "interleave", "summary"]

Times = dict[str, list[list[float]]]
"""Seconds of each call, by alternative and round."""


def interleave(
    alternatives: Mapping[str, Callable[[], object]], *, seconds: float, rounds: int, calls: int = 1
) -> Times:
    """Call each alternative in turn for ``seconds / rounds``, `rounds` times, after one call to warm up.

    Args:
        calls: least number of calls in a round. An alternative whose single call takes longer than `seconds`
            is called once a round in at most two rounds.
    """
    warm = {name: _call(function) for name, function in alternatives.items()}
    times: Times = {name: [] for name in alternatives}
    for _ in range(rounds):
        for name, function in alternatives.items():
            slow = warm[name] > seconds
            if slow and len(times[name]) >= 2:
                continue
            found: list[float] = []
            spent = 0.0
            while spent < seconds / rounds or len(found) < (1 if slow else calls):
                found.append(_call(function))
                spent += found[-1]
            times[name].append(found)
    return times


def summary(rounds: list[list[float]]) -> dict[str, float]:
    """Milliseconds a call: the best and the median of all, the 99th percentile, and how many there were."""
    every = np.array([value for found in rounds for value in found]) * 1e3
    found = {"min": every.min(), "p50": np.median(every), "p99": np.quantile(every, 0.99)}
    return {key: float(f"{value:.4g}") for key, value in found.items()} | plain({"calls": len(every)})


def _call(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started
