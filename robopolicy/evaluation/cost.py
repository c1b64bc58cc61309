"""What one chunk of a policy costs."""

from __future__ import annotations

import statistics
import time

from robopolicy.policies.policy import Policy, blank_observation

__all__ = ["REPETITIONS", "sampling_cost"]

REPETITIONS = 20


def sampling_cost(policy: Policy) -> dict[str, float]:
    """Parameters, network calls, and the median milliseconds of a chunk, from NumPy to NumPy.

    A call of an energy is a forward and a backward pass.
    """
    seen = blank_observation(policy)
    calls, spent = policy.sample(seen).calls, []
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        policy.sample(seen)
        spent.append(1e3 * (time.perf_counter() - started))
    parameters = sum(p.numel() for p in policy.parameters())
    return {"parameters": parameters, "calls": calls, "ms": statistics.median(spent)}
