"""The best of several chunks by a learned value (V-GPS, Nakamoto et al. 2024)."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from robopolicy.errors import ConfigError
from robopolicy.policies.actor_critic import ActorCriticPolicy
from robopolicy.policies.policy import Generation, Policy, Request, draw
from robopolicy.registry import register
from robopolicy.steering.judge import Judged
from robopolicy.steering.ledger import Ledger

Rule = Literal["softmax", "argmax", "random"]


@dataclass(frozen=True, kw_only=True)
class ValueGuidedConfig:
    """How many chunks, and how one of them is chosen."""

    critic: str = ""
    """Checkpoint of scripts/train_value.py."""
    candidates: int = 16
    rule: Rule = "softmax"
    """softmax: with probability ~ exp(z / beta); argmax: the best; random: any, for comparison."""
    beta: float = 1.0
    """Of values standardised among the candidates, ``z = (Q - mean) / deviation``; smaller is greedier."""

    def __post_init__(self) -> None:
        if self.candidates < 1 or self.beta <= 0:
            raise ConfigError(
                f"steer=value needs candidates >= 1 and beta > 0, got {self.candidates}, {self.beta}. "
                "The limit of small beta is steer.rule=argmax."
            )


@register("steer", "value")
class ValueGuided(Judged):
    """Draws K chunks and keeps one by its value. With one candidate it is the policy, bit for bit.

    Args:
        critic: instead of the checkpoint in the config.
    """

    def __init__(
        self, config: ValueGuidedConfig, *, policy: Policy, critic: ActorCriticPolicy | None = None
    ) -> None:
        fixed = config.candidates == 1
        super().__init__(policy, keeps=frozenset({"noise"} if fixed else ()))
        self.sit(config, critic)

    def generate(self, observation: dict[str, Tensor], request: Request) -> Generation:
        """One of the candidates, the first of which has the noise of the request.

        Raises:
            MissingCapability: the noise is given, which leaves nothing to choose from.
        """
        proposal = self.propose(observation, request, self.config.candidates)
        values = proposal.values
        index = self._choose(values, request)
        rows = torch.arange(len(index), device=index.device)
        self.ledger.add(
            {
                "q_first": values[:, 0],
                "q_random": values.mean(1),
                "q_greedy": values.amax(1),
                "q_chosen": values[rows, index],
                "q_deviation": values.std(1, correction=0),
            }
        )
        self.spent(proposal)
        if self.config.candidates == 1:
            return proposal.made
        return Generation(code=proposal.code[rows, index], calls=proposal.made.calls)

    def capped(self, seconds: float, latency: Callable[[Policy], float] | None = None) -> ValueGuided:
        """The same with as many candidates, halved again and again, as fit into `seconds` for one chunk.

        Args:
            latency: of a policy, in seconds; measured here by default.
        """
        measure = latency or seconds_per_chunk
        many, critic = self.config.candidates, self.judge.critic
        while True:
            config = dataclasses.replace(self.config, candidates=many)
            steered = ValueGuided(config, policy=self.policy, critic=critic)
            needed = measure(steered)
            if needed <= seconds or many == 1:
                break
            many //= 2
        if needed > seconds or many < self.config.candidates:
            warnings.warn(
                f"{self.config.candidates} candidates do not fit into {1000 * seconds:.1f} ms; {many} take "
                f"{1000 * needed:.1f} ms.",
                stacklevel=2,
            )
        steered.ledger = Ledger()
        return steered

    def _choose(self, values: Tensor, request: Request) -> Tensor:
        """Which of the candidates, int64 `[B * n]`."""
        if self.config.candidates == 1 or self.config.rule == "argmax":
            return values.argmax(1)
        if self.config.rule == "random":
            chances = torch.full_like(values, 1 / values.shape[1])
        else:
            chances = (standardised(values) / self.config.beta).softmax(1)
        # A uniform number for each chunk, made of a normal one: those come row by row from the generators.
        shape = (request.noise.shape[0], request.noise.shape[1])
        normal = draw(shape, request.generator, values.device).flatten()
        level = torch.special.ndtr(normal.double())
        ladder = chances.double().cumsum(1)
        return (ladder < level[:, None] * ladder[:, -1:]).sum(1).clamp_max(values.shape[1] - 1)


def standardised(values: Tensor) -> Tensor:
    """Values `[N, K]` in deviations from their mean over K; 0 where they do not differ."""
    deviation = values.std(1, keepdim=True, correction=0)
    return (values - values.mean(1, keepdim=True)) / deviation.clamp_min(1e-8)


def seconds_per_chunk(policy: Policy, repeats: int = 5) -> float:
    """Longest of a few samples for one observation of zeros, after one that warms up."""
    observation: dict[str, Any] = {
        key: [""] if o.kind == "text" else np.zeros((1, policy.obs_horizon, *o.shape), o.dtype)
        for key, o in policy.spec.observations.items()
    }
    generator = torch.Generator(policy.device).manual_seed(0)
    taken = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        policy.sample(observation, generator=generator)
        taken.append(time.perf_counter() - started)
    return max(taken[1:])
