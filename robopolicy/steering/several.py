"""What keeps one chunk of several: drawing them, choosing by chance, and how many there is time for."""

from __future__ import annotations

import abc
import dataclasses
import time
import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from robopolicy.policies.policy import Generation, Policy, Request, blank_observation, draw
from robopolicy.steering.ledger import Ledger
from robopolicy.steering.steer import Steered

__all__ = ["Several", "by_chance", "candidates", "seconds_per_chunk"]


class Several(Steered):
    """Makes `config.candidates` chunks and keeps one."""

    config: Any
    ledger: Ledger

    @abc.abstractmethod
    def with_candidates(self, many: int) -> Self:
        """The same with another number of candidates and an empty ledger."""

    def capped(self, seconds: float, latency: Callable[[Policy], float] | None = None) -> Self:
        """The same with as many candidates, halved again and again, as fit into `seconds` for one chunk.

        Args:
            latency: of a policy, in seconds; measured here by default.
        """
        measure = latency or seconds_per_chunk
        many = self.config.candidates
        while (needed := measure(self.with_candidates(many))) > seconds and many > 1:
            many //= 2
        if needed > seconds or many < self.config.candidates:
            warnings.warn(
                f"{self.config.candidates} candidates do not fit into {1000 * seconds:.1f} ms; {many} take "
                f"{1000 * needed:.1f} ms.",
                stacklevel=2,
            )
        return self.with_candidates(many)


def candidates(policy: Policy, observation: dict[str, Tensor], request: Request, many: int) -> Generation:
    """K chunks for each of the N = B * n that are wanted, `[N * K, Tp, Dz]`.

    The first of each K has the noise of the request; with one candidate this is the policy, bit for bit.
    """
    if many == 1:
        return policy.generate(observation, request)
    noise, (batch, n) = request.noise, request.noise.shape[:2]
    fresh = draw((batch, n * (many - 1), *policy.noise_shape), request.generator, noise.device)
    noise = torch.cat([noise[:, :, None], fresh.unflatten(1, (n, many - 1))], 2)
    return policy.generate(observation, dataclasses.replace(request, noise=noise.flatten(1, 2)))


def by_chance(chances: Tensor, request: Request) -> Tensor:
    """One of K for each of N = B * n with chances `[N, K]`: int64 `[N]`."""
    # A uniform number for each chunk, made of a normal one: those come row by row from the generators.
    normal = draw(tuple(request.noise.shape[:2]), request.generator, chances.device).flatten()
    level = torch.special.ndtr(normal.double())
    ladder = chances.double().cumsum(1)
    return (ladder < level[:, None] * ladder[:, -1:]).sum(1).clamp_max(chances.shape[1] - 1)


def seconds_per_chunk(policy: Policy, repeats: int = 5) -> float:
    """Longest of a few samples for one observation of zeros, after one that warms up."""
    observation = blank_observation(policy)
    executed = np.zeros((1, policy.obs_horizon - 1, policy.spec.action.size), np.float32)
    generator = torch.Generator(policy.device).manual_seed(0)
    taken = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        policy.sample(observation, generator=generator, executed=executed)
        taken.append(time.perf_counter() - started)
    return max(taken[1:])
