"""Composition as a way of steering: other checkpoints' fields are added to the policy's (PoCo)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from robopolicy.diffusion.corrector import Corrector
from robopolicy.diffusion.denoiser import Denoiser
from robopolicy.errors import ConfigError
from robopolicy.learning.checkpoint import load
from robopolicy.policies.composed import CORRECTOR, ComposedPolicy, domain_level, task_level
from robopolicy.policies.policy import Generation, Policy, Request
from robopolicy.registry import parse, plain, register
from robopolicy.steering.steer import Steered

__all__ = ["Composition", "CompositionConfig"]


@dataclass(frozen=True, kw_only=True)
class CompositionConfig:
    """Whose fields are added, and how."""

    level: Literal["domain", "task"] = "domain"
    """domain: a weighted sum; task: the policy is the general one, the other the specific."""
    others: tuple[str, ...] = ()
    """Checkpoints."""
    weights: tuple[float, ...] = ()
    """domain: the policy's first, equal and summing to 1 by default. task: one number, above 1 stronger."""
    corrector: Corrector = field(default_factory=lambda: parse(Corrector, CORRECTOR))

    def __post_init__(self) -> None:
        if not self.others:
            raise ConfigError("composition: give the other policies, steer.others=[outputs/...].")
        if self.level == "task" and (len(self.others), len(self.weights)) != (1, 1):
            raise ConfigError(
                f"composition: task level takes one other policy and one weight, got {len(self.others)} and "
                f"{len(self.weights)}."
            )


@register("steer", "composition")
class Composition(Steered):
    """The composed policy behind the first one's interface.

    Raises:
        MissingCapability: a policy that does not denoise.
        SpecMismatch: policies whose fields cannot be added.
    """

    def __init__(self, config: CompositionConfig, *, policy: Policy) -> None:
        policies = [policy, *(load(other, device=policy.device) for other in config.others)]
        changes = {"corrector": plain(config.corrector)}
        composed = (
            domain_level(policies, config.weights, sampler=changes)
            if config.level == "domain"
            else task_level(policies[0], policies[1], config.weights[0], sampler=changes)
        )
        composed.provenance = policy.provenance
        super().__init__(composed, keeps=frozenset({"gradient"}))
        self.config, self.sampler, self.clip = config, composed.sampler, composed.clip
        self.composed: ComposedPolicy = composed

    @property
    def evaluations(self) -> int:
        """Network evaluations in one call of the field."""
        return self.composed.evaluations

    def field(self, observation: Mapping[str, Tensor], n: int = 1) -> Denoiser:
        """The sum of fields, for rows `[B * n]`."""
        return self.composed.field(observation, n)

    def generate(self, observation: dict[str, Tensor], request: Request) -> Generation:
        """Denoise with the sum of fields."""
        return self.composed.generate(observation, request)
