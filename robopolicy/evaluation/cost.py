"""What one chunk of a policy costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import numpy as np

from robopolicy.policies.policy import Policy, blank_observation

__all__ = ["REPETITIONS", "calls_spent", "sampling_cost"]

REPETITIONS = 20


def sampling_cost(policy: Policy) -> dict[str, float]:
    """Parameters, network calls, and the median milliseconds of a chunk, from NumPy to NumPy.

    A call of an energy is a forward and a backward pass.
    """
    seen = blank_observation(policy)
    executed = np.zeros((1, policy.obs_horizon - 1, policy.spec.action.size), np.float32)
    calls, spent = policy.sample(seen, executed=executed).calls, []
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        policy.sample(seen, executed=executed)
        spent.append(1e3 * (time.perf_counter() - started))
    parameters = sum(p.numel() for p in policy.parameters())
    return {"parameters": parameters, "calls": calls, "ms": statistics.median(spent)}


def calls_spent(chunks: Sequence[np.ndarray]) -> dict[str, float]:
    """What chunks that end by themselves took in episodes, on average and at most; nothing of other policies.

    Args:
        chunks: `PolicyActor.calls`.
    """
    if not chunks:
        return {}
    calls = np.concatenate(chunks)
    return {"mean_calls": float(calls.mean()), "most_calls": int(calls.max())}
