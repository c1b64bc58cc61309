"""DPPO (Ren et al., ICLR 2025): policy gradients through the last denoising steps of a diffusion policy.

Each of the last K' of K denoising steps is a decision of its own: Gaussian, given the noisier chunk, with the
chunk's advantage discounted towards the noisier steps. Ratios are of the chain recorded while practising,
which is never clipped to the action's range. Log-probabilities are means over the executed rows and all Dz,
so a clip range of 0.01 bounds the whole chunk's log-ratio by 0.01 * Ta * Dz.

Units: our chunks are ``clean + sigma * noise``; published floors, and the bounds on log-densities, are of
variance-preserving chains, ``sqrt(1 + sigma^2)`` times smaller (`diffusion/floored.py`). Means and deviations
are ours, log-densities are given in the published units; ratios do not depend on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robopolicy.diffusion.denoiser import Denoiser
from robopolicy.diffusion.floored import Floored, FlooredConfig
from robopolicy.diffusion.samplers import Spacing
from robopolicy.errors import ConfigError
from robopolicy.policies.diffusion import DiffusionPolicy
from robopolicy.policies.dppo import DPPOPolicy
from robopolicy.policies.policy import Policy
from robopolicy.registry import register
from robopolicy.rl.proximal import LOG_PROB_RANGE, Drawn, Proximal, ProximalConfig
from robopolicy.vector import LaneVectorEnv

__all__ = ["DPPO", "EVALUATION_FLOOR", "DPPOConfig", "clip_schedule"]

EVALUATION_FLOOR = 1e-3


@dataclass(frozen=True, kw_only=True)
class DPPOConfig(ProximalConfig):
    """Published for Can: 50 lanes, 300 chunks, K 20, K' 10, batches of 7500; the rest as here."""

    denoising_steps: int = 10
    """K."""
    finetuned_steps: int = 5
    """K'."""
    eta: float = 1.0
    """1 is DDPM; less is DDIM with that share of its noise."""
    spacing: Spacing = "trailing"
    sampling_floor: float = 0.1
    """Least deviation of a step's noise while practising."""
    log_prob_floor: float = 0.1
    """Least deviation that densities are computed with."""
    noise_clip: float = 3.0
    denoising_discount: float = 0.99
    """Of the advantage, for each step further from the clean chunk."""
    clip: float = 0.01
    """Clip range of the last step's ratio."""
    clip_base: float = 0.001
    """Of the noisiest fine-tuned step's."""
    clip_rate: float = 3.0
    """How late between them it grows."""
    cloning: float = 0.0
    """Weight of staying likely to draw what the base policy draws."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.finetuned_steps <= self.denoising_steps:
            raise ConfigError(
                f"dppo: finetuned_steps must be 1 to denoising_steps = {self.denoising_steps}, "
                f"got {self.finetuned_steps}."
            )
        if not 0 < self.clip_base <= self.clip < 1 or self.log_prob_floor <= 0 or self.cloning < 0:
            raise ConfigError(
                "dppo needs 0 < clip_base <= clip < 1, log_prob_floor > 0 and cloning >= 0, got "
                f"{self.clip_base}, {self.clip}, {self.log_prob_floor}, {self.cloning}."
            )


def clip_schedule(steps: int, base: float, top: float, rate: float) -> Tensor:
    """Clip ranges `[K']`, the noisiest step first: from `base`, exponentially, to `top`."""
    if steps == 1:
        return torch.tensor([top], dtype=torch.float64)
    share = torch.linspace(0, 1, steps, dtype=torch.float64)
    return base + (top - base) * torch.expm1(rate * share) / math.expm1(rate)


@register("method", "dppo")
class DPPO(Proximal):
    """Stage s is denoising step K - K' + s."""

    requires = frozenset({"chain"})
    policy: DiffusionPolicy

    def __init__(
        self, config: DPPOConfig, *, policy: Policy, envs: LaneVectorEnv, seed: int, offset: int = 0
    ) -> None:
        policy.require(*self.requires)
        if not isinstance(policy, DiffusionPolicy) or isinstance(policy, DPPOPolicy):
            refined = " A refined policy goes on by resuming its run with more steps."
            raise ConfigError(
                f"dppo refines policies of policy=diffusion, not {type(policy).__name__}."
                + (refined if isinstance(policy, DPPOPolicy) else "")
            )
        super().__init__(config, policy, envs, seed=seed, offset=offset)
        self.config = config
        steps = {
            "name": "floored",
            "steps": config.denoising_steps,
            "eta": config.eta,
            "spacing": config.spacing,
            "noise_clip": config.noise_clip,
            "floor": EVALUATION_FLOOR,
        }
        self.tuned = DPPOPolicy.of(policy, steps, config.finetuned_steps)
        self.actor, self.stages = self.tuned.network, config.finetuned_steps
        self.first = config.denoising_steps - config.finetuned_steps
        sampling = FlooredConfig(
            steps=config.denoising_steps, eta=config.eta, spacing=config.spacing,
            noise_clip=config.noise_clip, floor=config.sampling_floor, last=True,
        )  # fmt: skip
        self.sampler = Floored(
            sampling, train_steps=policy.config.train_steps, schedule=policy.config.schedule
        )
        self._tables(policy.device, torch.float32)
        self._optimizers()

    def _tables(self, device: torch.device, dtype: torch.dtype) -> None:
        """Everything a step needs but the network, by stage."""
        config, late = self.config, slice(self.first, None)

        def table(values: Tensor) -> Tensor:
            return values.to(device, dtype)

        self.clip = table(clip_schedule(self.stages, config.clip_base, config.clip, config.clip_rate))
        power = torch.arange(self.stages - 1, -1, -1, dtype=torch.float64)
        self.weight = table(config.denoising_discount**power)
        self.sigma = table(self.sampler.sigmas[:-1])
        self.carry = table(self.sampler.carry)
        self.deviation = table(self.sampler.deviation)
        floored = self.sampler.raised(config.log_prob_floor)[late]
        self.precision = table(1 / floored)
        self.log_scale = table(-(floored / self.sampler.scale[late]).log() - 0.5 * math.log(2 * math.pi))
        low, high = self.policy.codec.action_bounds()
        self.bounds = (low.to(device, dtype), high.to(device, dtype)) if self.tuned.clip else None

    @torch.no_grad()
    def draw(self, condition: Tensor) -> Drawn:
        """A chain of K denoising steps for every condition; the last K' are recorded, with densities."""
        return self._chain(condition, self.tuned.late(condition))

    def log_prob(self, condition: Tensor, before: Tensor, after: Tensor, stage: Tensor) -> Tensor:
        """As the base class has it; every row is a step of its own."""
        mean = self._mean(self.tuned.late(condition), before, stage + self.first)
        return self._density(mean, after, stage)

    def regularizer(self, condition: Tensor) -> Tensor | None:
        """Cloning: how unlikely the steps are that the base policy takes, if the method is told to mind."""
        if not self.config.cloning:
            return None
        with torch.no_grad():
            taken = self._chain(condition, self.policy.denoiser(condition)).trace
        stage = torch.arange(self.stages, device=condition.device).repeat(len(condition))
        log_prob = self.log_prob(
            condition.repeat_interleave(self.stages, 0),
            taken[:, :-1].flatten(0, 1),
            taken[:, 1:].flatten(0, 1),
            stage,
        )
        return -self.config.cloning * log_prob.mean()

    def refined(self) -> Policy:
        """Both networks as one policy, which keeps a little noise in every step but the last."""
        return self.tuned

    def _chain(self, condition: Tensor, late: Denoiser) -> Drawn:
        steps, count = self.config.denoising_steps, len(condition)
        noise = torch.randn(
            (steps + 1, count, *self.policy.noise_shape), generator=self.generator, device=condition.device
        ).to(condition.dtype)
        x, limit = self.sampler.start(noise[0]), self.config.noise_clip
        early = self.policy.denoiser(condition)
        trace, log_probs = [], []
        for k in range(steps):
            if k == self.first:
                trace.append(x)
            step = torch.full((count,), k, device=condition.device)
            mean = self._mean(early if k < self.first else late, x, step)
            x = mean + self.deviation[k] * noise[k + 1].clamp(-limit, limit)
            if k >= self.first:
                trace.append(x)
                log_probs.append(self._density(mean, x, step - self.first))
        return Drawn(code=x, trace=torch.stack(trace, 1), log_prob=torch.stack(log_probs, 1))

    def _mean(self, denoiser: Denoiser, x: Tensor, step: Tensor) -> Tensor:
        clean = denoiser(x, self.sigma[step])
        if self.bounds is not None:
            clean = torch.clamp(clean, *self.bounds)
        return torch.lerp(clean, x, self.carry[step, None, None])

    def _density(self, mean: Tensor, x: Tensor, stage: Tensor) -> Tensor:
        z = (x - mean)[:, self.rows] * self.precision[stage, None, None]
        each = self.log_scale[stage, None, None] - 0.5 * z**2
        return each.clamp(*LOG_PROB_RANGE).mean((1, 2))
