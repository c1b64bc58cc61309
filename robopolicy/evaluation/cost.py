"""What one chunk of a policy costs."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from robopolicy.policies.policy import Policy

REPETITIONS = 20


def blank_observation(policy: Policy, batch: int = 1) -> dict[str, Any]:
    """Zeros for all that a policy observes, `[B, To, ...]`, and empty texts."""
    return {
        key: [""] * batch if o.kind == "text" else np.zeros((batch, policy.obs_horizon, *o.shape), np.float32)
        for key, o in policy.spec.observations.items()
    }


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
