"""What every way of steering shares: a policy around a policy.

    @register("steer", "mine")
    class Mine(Steered):
        def __init__(self, config: MineConfig, *, policy: Policy) -> None: ...

    steered = build("steer", {"name": "mine", ...}, policy=policy)

Steering wraps and never edits. What changes the field wraps the denoiser (`SteeredField.bend`); what chooses
among results wraps `generate`; what changes start or steps is an argument of the sampler.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from robopolicy.diffusion.corrector import Corrector
from robopolicy.diffusion.denoiser import Denoiser
from robopolicy.diffusion.samplers import Sampler
from robopolicy.errors import MissingCapability
from robopolicy.policies.denoising import run_sampler
from robopolicy.policies.policy import Generation, Policy, Request
from robopolicy.registry import build

__all__ = ["Denoises", "Steered", "SteeredField", "denoises", "load_acting"]


@runtime_checkable
class Denoises(Protocol):
    """A policy whose field can be wrapped: `DenoisingPolicy`, `ComposedPolicy`, `SteeredField`."""

    sampler: Sampler
    clip: bool

    @property
    def evaluations(self) -> int:
        """Network evaluations in one call of the field."""
        ...

    def field(self, observation: Mapping[str, Tensor], n: int = 1) -> Denoiser:
        """The denoiser for n chunks of each of the raw observations `[B, To, ...]`: rows `[B * n]`."""
        ...


class Steered(Policy):
    """Spec, codec, horizons, texts and provenance are the wrapped policy's; so are its capabilities.

    Args:
        keeps: which of the wrapped policy's capabilities stay true.
    """

    def __init__(self, policy: Policy, *, keeps: frozenset[str] = frozenset()) -> None:
        super().__init__(
            policy.spec,
            policy.codec,
            obs_horizon=policy.obs_horizon,
            pred_horizon=policy.pred_horizon,
            action_horizon=policy.action_horizon,
        )
        self.policy = policy
        self.provenance = policy.provenance
        self.capabilities = policy.capabilities & keeps  # type: ignore[misc]

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """The wrapped policy's."""
        return self.policy.tokens(texts)


class SteeredField(Steered):
    """Steers by wrapping the denoiser; its own field can be wrapped again.

    Raises:
        MissingCapability: the policy has no denoiser to wrap.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy, keeps=frozenset({"noise", "gradient"}))
        base = denoises(policy)
        self.sampler, self.clip = base.sampler, base.clip

    def correct(self, corrector: Corrector) -> None:
        """Sample with these Langevin steps; they leave no room for a given noise."""
        self.sampler = copy.copy(self.sampler)
        self.sampler.config = dataclasses.replace(self.sampler.config, corrector=corrector)
        self.sampler.corrector = corrector
        if corrector.steps:
            self.capabilities = self.capabilities - {"noise"}  # type: ignore[misc]

    @property
    def evaluations(self) -> int:
        """Network evaluations in one call of the field."""
        return denoises(self.policy).evaluations

    def field(self, observation: Mapping[str, Tensor], n: int = 1) -> Denoiser:
        """The wrapped policy's field, bent."""
        return self.bend(denoises(self.policy).field(observation, n), observation, n)

    def bend(self, field: Denoiser, observation: Mapping[str, Tensor], n: int) -> Denoiser:
        """The steered field, for rows `[B * n]`."""
        raise NotImplementedError

    def generate(self, observation: dict[str, Tensor], request: Request) -> Generation:
        """Denoise with the steered field."""
        if request.deterministic:
            self.require("noise")
        clip = self.codec.action_bounds() if self.clip else None
        field = self.field(observation, request.noise.shape[1])
        made = run_sampler(self.sampler, field, request, clip=clip)
        return dataclasses.replace(made, calls=made.calls * self.evaluations)


def denoises(policy: Policy) -> Denoises:
    """The policy, if it has a field.

    Raises:
        MissingCapability: it has none.
    """
    if not isinstance(policy, Denoises):
        raise MissingCapability(
            f"{type(policy).__name__} has no denoiser to steer. Take a policy that denoises: diffusion, beso "
            "or energy_denoising, for instance."
        )
    return cast(Denoises, policy)


def load_acting(
    checkpoint: str,
    *,
    sampler: Mapping[str, Any] | None = None,
    steer: Mapping[str, Any] | None = None,
    device: str | torch.device = "cpu",
) -> Policy:
    """A checkpoint as it is to act: with another sampler, and with what steers it around it."""
    from robopolicy.learning.checkpoint import load

    policy = load(checkpoint, device=device)
    if sampler is not None:
        policy = policy.with_sampler(sampler)
    return policy if steer is None else cast("Policy", build("steer", steer, policy=policy))
