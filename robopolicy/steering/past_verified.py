"""Self-verification of past-token prediction (PTP, Torne et al. 2025): a chunk that remembers is kept.

A chunk begins at the first observation, To-1 actions before the present, so every policy here says what it
believes it has done. Of several chunks the one is kept whose beginning is nearest to what was executed: it
continues the behaviour that is under way.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robopolicy.errors import ConfigError
from robopolicy.policies.policy import Generation, Policy, Request
from robopolicy.registry import register
from robopolicy.steering.ledger import Ledger
from robopolicy.steering.several import Several, by_chance, candidates

__all__ = ["PastVerified", "PastVerifiedConfig"]


@dataclass(frozen=True, kw_only=True)
class PastVerifiedConfig:
    """How many chunks, and how one of them is chosen."""

    candidates: int = 10
    rule: Literal["nearest", "random"] = "nearest"
    """nearest: to the past; random: any, for comparison."""

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ConfigError(f"past_verified: candidates must be at least 1, got {self.candidates}.")


@register("steer", "past_verified")
class PastVerified(Several):
    """Draws K chunks and keeps one by the past that it tells.

    With one candidate it is the policy, bit for bit. When an episode begins there is no past, and the first
    candidate is taken.

    Raises:
        ConfigError: the policy sees one observation, or it did not learn past actions.
    """

    def __init__(self, config: PastVerifiedConfig, *, policy: Policy) -> None:
        super().__init__(policy, keeps=frozenset({"noise"} if config.candidates == 1 else ()))
        self.config: PastVerifiedConfig = config
        self.ledger = Ledger()
        learned = policy.provenance.config.get("past_actions")
        self.past = policy.obs_horizon - 1 if learned is None else int(learned)
        """Actions before the present that are compared."""
        if not self.past:
            raise ConfigError(
                f"steer=past_verified compares past actions: the policy has obs_horizon={policy.obs_horizon} "
                f"and was trained with past_actions={learned}. Train with policy.obs_horizon >= 2 and "
                "without past_actions=0."
            )

    def with_candidates(self, many: int) -> PastVerified:
        """The same with another number of candidates and an empty ledger."""
        return PastVerified(dataclasses.replace(self.config, candidates=many), policy=self.policy)

    def generate(self, observation: dict[str, Tensor], request: Request) -> Generation:
        """One of the candidates, the first of which has the noise of the request.

        Raises:
            MissingCapability: the noise is given, which leaves nothing to choose from.
            ConfigError: nobody says what was executed.
        """
        if request.deterministic:
            self.require("noise")
        if request.executed is None:
            raise ConfigError(
                "steer=past_verified needs the actions that were executed: "
                "Policy.sample(executed=[B, To-1, Da]). On a robot use executor.mode=chunks."
            )
        started = time.perf_counter()
        many = self.config.candidates
        made = candidates(self.policy, observation, request, many)
        ready = time.perf_counter()
        code = made.code.unflatten(0, (-1, many))
        error = self.mismatch(made.code, observation, request.executed).view(-1, many)
        self.ledger.candidates(code.flatten(2), type(self.policy).__name__)
        if self.config.rule == "nearest" or many == 1:
            index = error.argmin(1)
        else:
            index = by_chance(torch.full_like(error, 1 / many), request)
        rows = torch.arange(len(index), device=index.device)
        self.ledger.add(
            {
                "mismatch_first": error[:, 0],
                "mismatch_random": error.mean(1),
                "mismatch_nearest": error.amin(1),
                "mismatch_chosen": error[rows, index],
            }
        )
        self.ledger.seconds(policy=ready - started, verification=time.perf_counter() - ready)
        return made if many == 1 else Generation(code=code[rows, index], calls=made.calls)

    def mismatch(self, code: Tensor, observation: Mapping[str, Tensor], executed: Tensor) -> Tensor:
        """Mean squared difference between the past of encoded chunks and what was executed, `[N]`.

        Args:
            code: `[N, Tp, Dz]`, N a multiple of the B observations.
            executed: `[B, To-1, Da]` in the robot's units; rows that are NaN do not count.
        """
        each, steps = len(code) // len(executed), executed.shape[1]
        rows = {key: value.repeat_interleave(each, 0) for key, value in observation.items()}
        done = executed.repeat_interleave(each, 0)
        known = done.isfinite().all(-1)
        known[:, : steps - self.past] = False
        told = code[:, :steps]
        # What is not known is as the chunk says: step-to-step representations need every row.
        done = torch.where(known[..., None], done, self.codec.decode_action(told, rows))
        error = (self.codec.encode_action(done, rows) - told).square().mean(-1)
        return (error * known).sum(1) / known.sum(1).clamp_min(1)
