"""Classifier-free guidance (Ho & Salimans 2022) towards the goal, of a policy that also learned without."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

from torch import Tensor

from robopolicy.errors import ConfigError, MissingCapability
from robopolicy.policies.beso import BESOPolicy
from robopolicy.policies.policy import Generation, Policy, Request
from robopolicy.registry import register
from robopolicy.steering.steer import Steered

__all__ = ["GoalGuidance", "GoalGuidanceConfig"]


@dataclass(frozen=True, kw_only=True)
class GoalGuidanceConfig:
    """How much the goal counts."""

    weight: float = 1.5
    """1 is the policy as it is, 0 ignores the goal, more than 1 overdoes it."""

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ConfigError(f"goal_guidance: weight must be >= 0, got {self.weight}.")


@register("steer", "goal_guidance")
class GoalGuidance(Steered):
    """The policy with another weight of its goal (BESO's `guidance`).

    Raises:
        MissingCapability: a policy that has no goal.
        ConfigError: one that never learned without its goal.
    """

    def __init__(self, config: GoalGuidanceConfig, *, policy: Policy) -> None:
        if not isinstance(policy, BESOPolicy) or not policy.goals:
            raise MissingCapability(
                f"goal_guidance needs a beso policy with a goal among its observations, not "
                f"{type(policy).__name__} of {sorted(policy.spec.observations)}."
            )
        guided = copy.copy(policy)
        guided.config = dataclasses.replace(policy.config, guidance=config.weight)
        super().__init__(guided, keeps=policy.capabilities)
        self.config = config

    def generate(self, observation: dict[str, Tensor], request: Request) -> Generation:
        """The guided policy's."""
        return self.policy.generate(observation, request)
