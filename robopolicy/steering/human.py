"""Six ways for a person to steer a frozen policy (ITPS, Wang et al. 2024), from the weakest to the strongest.

    random               the policy as it is
    output_perturbation  the plan is moved after it was made; the policy plans anew from where that leads
    ranking              of several plans, the one nearest to the wish
    biased               denoising starts from the wish, with noise added, and skips the noisiest levels
    guided               every denoising step also goes toward the wish
    stochastic           the same, with Langevin steps at every noise level, which bring plans back to what
                         the policy holds likely (their "guided MCMC"; here the temperature is a setting)

Each at strength 0 (ranking: with one candidate; stochastic: without Langevin steps, too) is the policy, bit
for bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robopolicy.diffusion.corrector import Corrector
from robopolicy.diffusion.denoiser import Denoiser
from robopolicy.errors import ConfigError
from robopolicy.policies.denoising import run_sampler
from robopolicy.policies.policy import Generation, Policy, Request
from robopolicy.registry import register
from robopolicy.steering.alignment import Alignment
from robopolicy.steering.costs import descending
from robopolicy.steering.guidance import Guidance, GuidanceConfig
from robopolicy.steering.several import candidates
from robopolicy.steering.steer import Steered, SteeredField, denoises

__all__ = [
    "BiasedConfig",
    "BiasedInitialisation",
    "GuidedConfig",
    "GuidedDiffusion",
    "OutputPerturbation",
    "OutputPerturbationConfig",
    "RandomConfig",
    "RandomSampling",
    "Ranking",
    "RankingConfig",
    "StochasticConfig",
    "StochasticSampling",
]


@dataclass(frozen=True, kw_only=True)
class RandomConfig(GuidanceConfig):
    """The wish is not listened to."""


@register("steer", "random")
class RandomSampling(Steered):
    """The policy as it is: what the others are measured against."""

    def __init__(self, config: RandomConfig, *, policy: Policy, guidance: Guidance | None = None) -> None:
        super().__init__(policy, keeps=policy.capabilities - {"trainable"})
        self.config, self.alignment = config, Alignment(policy, config, guidance)

    def generate(self, observation: dict[str, Tensor], request: Request) -> Generation:
        """The policy's."""
        return self.policy.generate(observation, request)


@dataclass(frozen=True, kw_only=True)
class OutputPerturbationConfig(GuidanceConfig):
    """How far the plan gives way."""

    strength: float = 1.0
    """Share of the way to what is wanted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.strength <= 1:
            raise ConfigError(f"output_perturbation: strength is in [0, 1], got {self.strength}.")


@register("steer", "output_perturbation")
class OutputPerturbation(Steered):
    """Moves the plan itself: whatever the policy holds likely, a person's hand is on the arm."""

    def __init__(
        self, config: OutputPerturbationConfig, *, policy: Policy, guidance: Guidance | None = None
    ) -> None:
        super().__init__(policy, keeps=frozenset({"noise"}))
        self.config, self.alignment = config, Alignment(policy, config, guidance)

    def generate(self, observation: dict[str, Tensor], request: Request) -> Generation:
        """The policy's plan, moved."""
        made = self.policy.generate(observation, request)
        if not self.config.strength:
            return made
        moved = self.alignment.moved(made.code, observation, self.config.strength)
        return Generation(code=moved, calls=made.calls)


@dataclass(frozen=True, kw_only=True)
class RankingConfig(GuidanceConfig):
    """How many plans there are to choose from."""

    candidates: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 1:
            raise ConfigError(f"ranking: candidates must be at least 1, got {self.candidates}.")


@register("steer", "ranking")
class Ranking(Steered):
    """Makes several plans and keeps the one nearest to what is wanted."""

    def __init__(self, config: RankingConfig, *, policy: Policy, guidance: Guidance | None = None) -> None:
        super().__init__(policy, keeps=frozenset({"noise"} if config.candidates == 1 else ()))
        self.config, self.alignment = config, Alignment(policy, config, guidance)

    def generate(self, observation: dict[str, Tensor], request: Request) -> Generation:
        """The best of the candidates, the first of which has the noise of the request.

        Raises:
            MissingCapability: the noise is given, which leaves nothing to choose from.
        """
        if request.deterministic:
            self.require("noise")
        many, (batch, n) = self.config.candidates, request.noise.shape[:2]
        if many == 1:
            return self.policy.generate(observation, request)
        made = candidates(self.policy, observation, request, many)
        cost = self.alignment.cost(observation, n * many)(made.code).view(batch * n, many)
        best = cost.argmin(1)
        code = made.code.unflatten(0, (batch * n, many))
        return Generation(
            code=code[torch.arange(batch * n, device=best.device), best], calls=made.calls * many
        )


@dataclass(frozen=True, kw_only=True)
class BiasedConfig(GuidanceConfig):
    """How late denoising starts."""

    strength: float = 0.5
    """Share of the denoising steps that are skipped: 0 starts from noise alone, nearly 1 from the wish."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.strength < 1:
            raise ConfigError(f"biased: strength is in [0, 1), got {self.strength}.")


@register("steer", "biased")
class BiasedInitialisation(Steered):
    """Starts the sampler from what is wanted plus noise, at a lower level.

    What is wanted of the whole chunk is the policy's mean plan (one call of the field), moved.

    Raises:
        MissingCapability: the policy has no denoiser.
    """

    def __init__(self, config: BiasedConfig, *, policy: Policy, guidance: Guidance | None = None) -> None:
        super().__init__(policy, keeps=frozenset({"noise"}))
        self.config, self.alignment = config, Alignment(policy, config, guidance)
        self.sampler = denoises(policy).sampler
        self.skipped = min(round(config.strength * self.sampler.steps), self.sampler.steps - 1)

    def generate(self, observation: dict[str, Tensor], request: Request) -> Generation:
        """Denoise from the moved mean plan."""
        if not self.skipped:
            return self.policy.generate(observation, request)
        base = denoises(self.policy)
        field = base.field(observation, request.noise.shape[1])
        x = self.sampler.start(request.noise.flatten(0, 1))
        mean = field(x, x.new_full((len(x),), float(self.sampler.sigmas[0])))
        made = run_sampler(
            self.sampler.below(self.skipped),
            field,
            request,
            clip=self.codec.action_bounds() if base.clip else None,
            reference=self.alignment.moved(mean, observation, 1.0),
        )
        return dataclasses.replace(made, calls=(made.calls + 1) * base.evaluations)


@dataclass(frozen=True, kw_only=True)
class GuidedConfig(GuidanceConfig):
    """How strongly, and how long."""

    strength: float = 1.0
    """How far the clean estimate is moved at high noise, in encoded actions (half the data's range is 1)."""
    stop: float = 0.0
    """Noise level below which the policy is left alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.strength < 0 or self.stop < 0:
            raise ConfigError(f"guided: strength and stop must be >= 0, got {self.strength}, {self.stop}.")


@register("steer", "guided")
class GuidedDiffusion(SteeredField):
    """Goes down the distance to what is wanted at every denoising step."""

    def __init__(self, config: GuidedConfig, *, policy: Policy, guidance: Guidance | None = None) -> None:
        super().__init__(policy)
        self.config: GuidedConfig = config
        self.alignment = Alignment(policy, config, guidance)

    def bend(self, field: Denoiser, observation: Mapping[str, Tensor], n: int) -> Denoiser:
        """The field that descends the distance."""
        cost, config = self.alignment.cost(observation, n), self.config
        return descending(field, [cost], [config.strength], stop=config.stop)


@dataclass(frozen=True, kw_only=True)
class StochasticConfig(GuidedConfig):
    """Guidance and the Langevin steps."""

    corrector: Corrector = field(default_factory=lambda: Corrector(steps=4, eta=0.3))


@register("steer", "stochastic")
class StochasticSampling(GuidedDiffusion):
    """Guided diffusion whose sampler takes Langevin steps at every level."""

    def __init__(self, config: StochasticConfig, *, policy: Policy, guidance: Guidance | None = None) -> None:
        super().__init__(config, policy=policy, guidance=guidance)
        self.correct(config.corrector)
