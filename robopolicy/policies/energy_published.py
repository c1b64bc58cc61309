"""EBT-Policy as published (Davies et al. 2025, arXiv 2510.27545): chunks by descent on a learned energy."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from robopolicy.codecs import Codec
from robopolicy.diffusion.energy import (
    BudgetConfig,
    Descent,
    DescentConfig,
    DescentStep,
    Energy,
    descend,
    descent_step,
    energy_and_slope,
    langevin_scale,
)
from robopolicy.diffusion.training import masked_mean
from robopolicy.errors import ConfigError
from robopolicy.networks.attention import differentiate_twice
from robopolicy.networks.mlp import MLP
from robopolicy.policies.conditioned import ConditionedPolicy
from robopolicy.policies.policy import ChunkConfig, Generation, Request
from robopolicy.registry import parse, plain, register
from robopolicy.spec import Spec

if TYPE_CHECKING:
    from robopolicy.data.windows import Batch

__all__ = ["WIDER", "EnergyPublishedConfig", "EnergyPublishedPolicy"]

WIDER = 1.05
"""Negative chunks are kept within the data's range, this much widened (Implicit Behavioral Cloning)."""


@dataclass(frozen=True, kw_only=True)
class EnergyPublishedConfig(ChunkConfig):
    """The defaults are the released Tool Hang settings; the network is any, its outputs are averaged."""

    encoder: Mapping[str, Any] = field(default_factory=lambda: {"name": "state"})
    network: Mapping[str, Any] = field(default_factory=lambda: {"name": "mlp"})
    descent: DescentConfig = field(default_factory=DescentConfig)
    training: Literal["noise", "noised_demo", "infonce"] = "noise"
    """"noise" is the published recipe: the squared error of a descent from pure noise, for which the average
    of all modes is the best answer. "noised_demo" takes one step from the demonstration mixed with noise,
    "infonce" contrasts the demonstration with the descent's own chunks: neither averages."""
    train_steps: tuple[int, ...] = (6, 10)
    """Fewest and most descent steps of a training batch, drawn for every batch (noised_demo: always 1). Every
    rank draws its own: ranks meet only in the mean of their gradients, after a backward pass that reaches the
    same weights whatever the number of steps."""
    langevin: tuple[float, ...] = (0.002, 0.2)
    """Smallest and largest noise of a training step, annealed along the descent."""
    jitter: float = 1.5
    """Training step sizes are scaled by a factor between 1/jitter and jitter, drawn for every chunk."""
    sampler: BudgetConfig = field(default_factory=BudgetConfig)
    negatives: int = 8
    """Chunks contrasted with each demonstration (infonce)."""
    slope_limit: float = 1.0
    """Gradients at these chunks are held below it, so that descent steps stay bounded (infonce)."""
    clip: bool = True
    """Clip the final chunk to the range of the (encoded) data."""

    def __post_init__(self) -> None:
        if len(self.train_steps) != 2 or not 1 <= self.train_steps[0] <= self.train_steps[1]:
            raise ConfigError(
                f"energy_published: train_steps must be [fewest, most] >= 1, got {self.train_steps}."
            )
        if len(self.langevin) != 2 or not 0 <= self.langevin[0] <= self.langevin[1]:
            raise ConfigError(
                f"energy_published: langevin must be [smallest, largest] >= 0, got {self.langevin}."
            )
        if self.jitter < 1 or self.negatives < 1:
            raise ConfigError(
                f"energy_published needs jitter, negatives >= 1, got {self.jitter}, {self.negatives}."
            )


@register("policy", "energy_published")
class EnergyPublishedPolicy(ConditionedPolicy):
    """E(chunk, observation) is the mean of a network's output; the policy descends on it from noise.

    The energy knows no noise level and is no score: there is no `Denoiser` to guide or compose.
    """

    capabilities = frozenset({"trainable", "noise", "energy"})

    def __init__(self, config: EnergyPublishedConfig, *, spec: Spec, codec: Codec) -> None:
        if codec.config.action == "identity":
            raise ConfigError(
                "energy_published brings chunks to a root mean square of 1, which encoded actions must have "
                "about: codec.action=minmax, quantile or zscore, not identity."
            )
        super().__init__(config, spec=spec, codec=codec)
        self.network = self.build_network()
        differentiate_twice(self.network)

    def energy(self, condition: Tensor) -> Energy:
        """The energy of encoded chunks for rows with these conditions `[N, To, Dc]`."""
        level = condition.new_zeros(len(condition))
        if isinstance(self.network, MLP):  # what does not depend on the chunk: once for all steps
            function = partial(self.network.given, context=self.network.context(level, condition))
        else:
            function = partial(self.network, level=level, condition=condition)
        return lambda x: function(x).float().mean((1, 2))

    def descend(self, observation: Mapping[str, Tensor], noise: Tensor) -> Descent:
        """The descent of raw observations `[N, To, ...]` from noise `[N, Tp, Dz]`, with its step counts."""
        energy = self.energy(self.condition(observation))
        return descend(energy, noise, self.config.descent, self.config.sampler)

    def with_sampler(self, sampler: Mapping[str, Any]) -> Self:
        """A policy with the same weights, shared with this one, and another budget (``{"steps": 2}``)."""
        other = copy.copy(self)
        changed = {**plain(self.config.sampler), **sampler}
        other.config = replace(self.config, sampler=parse(BudgetConfig, changed, "sampler"))
        return other

    def generate(self, observation: dict[str, Tensor], request: Request) -> Generation:
        """Descend from the noise; nothing else is random. A call is a forward and a backward pass."""
        condition = self.condition(observation)
        energy = self.energy(condition.repeat_interleave(request.noise.shape[1], 0))
        found = descend(energy, request.noise.flatten(0, 1), self.config.descent, self.config.sampler)
        code = found.x
        if self.config.clip:
            code = torch.clamp(code, *self.codec.action_bounds())
        most = int(found.steps.max())
        return Generation(code=code, energy=energy(code), calls=most, own_calls=found.steps)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """By `config.training`; gradients reach back through one descent step at most."""
        clean = self.codec.encode_action(batch.action, batch.observation)
        condition = self.condition(batch.observation)
        if self.config.training == "infonce":
            return self._contrast(clean, condition, batch.mask, generator)
        last = self._training_descent(self.energy(condition), self._start(clean, generator), generator)
        return masked_mean((last.x - clean) ** 2, batch.mask), {
            "energy": last.energy.detach().mean(),
            "step_scale": last.scale.mean(),
            "slope": last.slope.mean(),
        }

    def _start(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.empty_like(clean).normal_(generator=generator)
        if self.config.training == "noise":
            return noise
        share = torch.rand(len(clean), 1, 1, generator=generator, device=clean.device)
        return torch.lerp(clean, noise, share)

    def _training_descent(
        self, energy: Energy, x: Tensor, generator: torch.Generator, *, last_graph: bool = True
    ) -> DescentStep:
        """The last step of a descent with noise and jitter, differentiable where `last_graph`."""
        config = self.config
        fewest, most = (1, 1) if config.training == "noised_demo" else config.train_steps
        smallest, largest = config.langevin
        steps = int(torch.randint(fewest, most + 1, (), generator=generator, device=x.device))
        velocity = torch.zeros_like(x)
        for k in range(steps):
            noise = torch.empty_like(x).normal_(generator=generator)
            share = torch.rand(len(x), generator=generator, device=x.device)
            step = descent_step(
                energy,
                x,
                velocity,
                config.descent,
                noise=noise * langevin_scale(k, steps, largest, smallest),
                rate=1 / config.jitter + share * (config.jitter - 1 / config.jitter),
                create_graph=last_graph and k == steps - 1,
            )
            x, velocity = step.x, step.velocity
        return step

    def _contrast(
        self, clean: Tensor, condition: Tensor, mask: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """InfoNCE (Florence et al. 2021): which of the chunks is the demonstration?"""
        count = self.config.negatives
        energy = self.energy(condition.repeat_interleave(count, 0))
        noise = torch.empty_like(clean.repeat_interleave(count, 0)).normal_(generator=generator)
        low, high = self.codec.action_bounds()
        margin = (WIDER - 1) / 2 * (high - low)
        found = self._training_descent(energy, noise, generator, last_graph=False).x.detach()
        found = torch.clamp(found, low - margin, high + margin)
        if mask is not None:  # rows that do not count are the demonstration's
            found = torch.where(
                mask.repeat_interleave(count, 0)[..., None], found, clean.repeat_interleave(count, 0)
            )
        negative, slope = energy_and_slope(energy, found, create_graph=True)
        positive = self.energy(condition)(clean)
        size = clean[0].numel()
        logits = -size * torch.cat([positive[:, None], negative.view(-1, count)], 1)
        target = torch.zeros(len(clean), dtype=torch.int64, device=clean.device)
        contrast = F.cross_entropy(logits, target)
        steepest = (slope * size).abs().amax((1, 2))
        penalty = (steepest - self.config.slope_limit).clamp_min(0).square().mean()
        return contrast + penalty, {
            "contrast": contrast.detach(),
            "energy": positive.detach().mean(),
            "slope": steepest.detach().mean(),
        }
