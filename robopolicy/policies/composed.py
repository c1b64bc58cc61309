"""Several denoising policies as one (PoCo, Wang et al. 2024): their fields add up at every denoising step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from robopolicy.diffusion.compose import change_of_normaliser, composed, renormalised
from robopolicy.diffusion.denoiser import Denoiser
from robopolicy.diffusion.noise import sigma_table
from robopolicy.errors import ConfigError, MissingCapability, SpecMismatch
from robopolicy.policies.denoising import DenoisingPolicy, run_sampler
from robopolicy.policies.policy import Generation, Policy, Request

__all__ = ["CORRECTOR", "NEARLY", "ComposedPolicy", "check_alike", "domain_level", "task_level"]

CORRECTOR = {"steps": 4, "eta": 0.3}
"""Brings a composition nearer to the product; what closed forms need is 20 steps at each of 60 levels."""
NEARLY = 2.0
"""Noise this much above a policy's training range is still as good as pure noise to it."""


class ComposedPolicy(Policy):
    """Chunks from the product of what policies would do, each to the power of its weight.

    It observes what any of them observes. Sums of fields need a Langevin corrector, so the default sampler is
    the first policy's with one.
    """

    capabilities = frozenset({"gradient"})
    clip = False
    """Never: the range of one policy's data is not that of another's."""

    def __init__(
        self,
        policies: Sequence[Policy],
        weights: Sequence[float],
        *,
        sampler: Mapping[str, Any] | None = None,
    ) -> None:
        """Codes are the first policy's; others are translated where their normalisers differ.

        Args:
            sampler: the first policy's, changed (`DenoisingPolicy.with_sampler`).

        Raises:
            MissingCapability: a policy that does not denoise.
            SpecMismatch: policies with different actions, horizons, rates, noise or observations.
            ConfigError: codecs that no change of normaliser relates, weights that do not fit.
        """
        if not policies or len(policies) != len(weights) or not any(weights):
            raise ConfigError(
                f"Composition needs policies and a weight for each, one of them not 0; got {len(policies)} "
                f"policies and weights {list(weights)}."
            )
        denoising = [_denoising(policy) for policy in policies]
        first = denoising[0]
        if texts := sorted({key for policy in denoising for key in policy.codec.texts}):
            raise ConfigError(f"Policies that read texts ({', '.join(texts)}) do not compose.")
        for other in denoising[1:]:
            check_alike(first, other)
        observations = {key: value for policy in denoising for key, value in policy.spec.observations.items()}
        super().__init__(
            dataclasses.replace(first.spec, observations=observations),
            first.codec,
            obs_horizon=first.obs_horizon,
            pred_horizon=first.pred_horizon,
            action_horizon=first.action_horizon,
        )
        self.policies, self.weights = nn.ModuleList(denoising), tuple(weights)
        changes = {"corrector": CORRECTOR} if sampler is None else sampler
        self.sampler = first.with_sampler(changes).sampler

    @property
    def evaluations(self) -> int:
        """Network evaluations in one call of the field."""
        used = [module for module, weight in zip(self.policies, self.weights, strict=True) if weight]
        return sum(cast(DenoisingPolicy, module).evaluations for module in used)

    def field(self, observation: Mapping[str, Tensor], n: int = 1) -> Denoiser:
        """The sum of the policies' fields, for rows `[B * n]`."""
        fields = []
        for module in self.policies:
            policy = cast(DenoisingPolicy, module)
            own = {key: observation[key] for key in policy.spec.observations}
            field = policy.field(own, n)
            scale, shift = change_of_normaliser(self.codec, policy.codec)
            same = bool((scale == 1).all() and (shift == 0).all())
            fields.append(field if same else renormalised(field, scale, shift))
        return composed(fields, self.weights)

    def generate(self, observation: dict[str, Tensor], request: Request) -> Generation:
        """Denoise with the summed field.

        Raises:
            MissingCapability: the noise is given, which leaves no room for the corrector.
        """
        if request.deterministic:
            self.require("noise")
        field = self.field(observation, request.noise.shape[1])
        made = run_sampler(self.sampler, field, request, clip=None)
        return dataclasses.replace(made, calls=made.calls * self.evaluations)


def domain_level(
    policies: Sequence[Policy],
    weights: Sequence[float] = (),
    *,
    sampler: Mapping[str, Any] | None = None,
) -> ComposedPolicy:
    """Policies of one task from several domains (sources of data, robots, senses), summed.

    Args:
        weights: equal ones that sum to 1 by default, the geometric mean; 1 each is the product.
    """
    many = len(policies)
    return ComposedPolicy(policies, tuple(weights) or (1 / many,) * many, sampler=sampler)


def task_level(
    general: Policy,
    specific: Policy,
    weight: float,
    *,
    sampler: Mapping[str, Any] | None = None,
) -> ComposedPolicy:
    """A policy of many tasks pushed to one: ``general + weight (specific - general)`` in displacements."""
    return ComposedPolicy([general, specific], (1 - weight, weight), sampler=sampler)


def check_alike(first: DenoisingPolicy, other: DenoisingPolicy) -> None:
    """Raise, listing every difference, unless the fields of two policies can be added.

    Raises:
        SpecMismatch: actions, horizons, control rates, observations of one name, or the range of noise.
        ConfigError: codecs that no change of normaliser relates.
    """
    ours, theirs = first.spec.observations, other.spec.observations
    wanted = dataclasses.replace(first.spec, observations={**theirs, **ours})
    found = wanted.differences(dataclasses.replace(other.spec, observations={**ours, **theirs}))
    for name in ("obs_horizon", "pred_horizon", "action_horizon"):
        mine, its = getattr(first, name), getattr(other, name)
        if mine != its:
            found.append(f"{name}: {mine} and {its}")
    if not found:
        scale, _ = change_of_normaliser(first.codec, other.codec)
        needed = float(first.sampler.sigmas[0] * scale.abs().amax())
        trained = float(sigma_table(other.sampler.train_steps, other.sampler.schedule)[-1])
        if needed > NEARLY * trained:
            found.append(f"noise: sampling starts at {needed:.3g}, the other was trained up to {trained:.3g}")
    if found:
        raise SpecMismatch("These policies do not compose:\n  - " + "\n  - ".join(found))


def _denoising(policy: Policy) -> DenoisingPolicy:
    if not isinstance(policy, DenoisingPolicy):
        raise MissingCapability(
            f"{type(policy).__name__} has no field to add. Policies that denoise compose: diffusion, beso or "
            "energy_denoising, for instance."
        )
    return policy
