"""The best of several chunks by a learned value (V-GPS, Nakamoto et al. 2024)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robopolicy.errors import ConfigError
from robopolicy.policies.actor_critic import ActorCriticPolicy
from robopolicy.policies.policy import Generation, Policy, Request
from robopolicy.registry import register
from robopolicy.steering.judge import Judged
from robopolicy.steering.several import Several, by_chance

__all__ = ["Rule", "ValueGuided", "ValueGuidedConfig", "standardised"]

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
class ValueGuided(Judged, Several):
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

    def with_candidates(self, many: int) -> ValueGuided:
        """The same with another number of candidates and an empty ledger."""
        config = dataclasses.replace(self.config, candidates=many)
        return ValueGuided(config, policy=self.policy, critic=self.judge.critic)

    def _choose(self, values: Tensor, request: Request) -> Tensor:
        """Which of the candidates, int64 `[B * n]`."""
        if self.config.candidates == 1 or self.config.rule == "argmax":
            return values.argmax(1)
        if self.config.rule == "random":
            chances = torch.full_like(values, 1 / values.shape[1])
        else:
            chances = (standardised(values) / self.config.beta).softmax(1)
        return by_chance(chances, request)


def standardised(values: Tensor) -> Tensor:
    """Values `[N, K]` in deviations from their mean over K; 0 where they do not differ."""
    deviation = values.std(1, keepdim=True, correction=0)
    return (values - values.mean(1, keepdim=True)) / deviation.clamp_min(1e-8)
