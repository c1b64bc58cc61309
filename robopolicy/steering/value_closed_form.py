"""Policy improvement in closed form (CFPI, Li et al. 2023): one step up Q, as far as the policy's own spread.

With the policy near an observation as a Gaussian ``N(m, S)`` and Q linear around its mean, the best chunk of
those with ``(a - m)^T S^-1 (a - m) / 2 <= tau`` is

    a* = m + sqrt(2 tau) S g / sqrt(g^T S g),      g = dQ/da at m.

Mean and covariance are those of K sampled chunks. The covariance is never formed, and the step stays in the
span of what was sampled. Where the policy has several modes its mean lies between them; so a* competes with
the best of the samples, and the one that Q values more is taken (as their mixture version decides).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robopolicy.diffusion.energy import energy_and_slope
from robopolicy.errors import ConfigError
from robopolicy.policies.actor_critic import ActorCriticPolicy
from robopolicy.policies.policy import Generation, Policy, Request
from robopolicy.registry import register
from robopolicy.steering.judge import Judged

__all__ = ["ValueClosedForm", "ValueClosedFormConfig", "improved"]


@dataclass(frozen=True, kw_only=True)
class ValueClosedFormConfig:
    """How far from the policy's mean, and how well that is known."""

    critic: str = ""
    """Checkpoint of scripts/train_value.py."""
    candidates: int = 16
    tau: float = 0.1
    """Half the squared length of the step, in standard deviations of the policy."""

    def __post_init__(self) -> None:
        if self.candidates < 2 or self.tau < 0:
            raise ConfigError(
                "steer=value_closed_form needs candidates >= 2 (it takes their spread) and tau >= 0, got "
                f"{self.candidates}, {self.tau}."
            )


@register("steer", "value_closed_form")
class ValueClosedForm(Judged):
    """The improved mean, or the best sample if its value is higher."""

    def __init__(
        self, config: ValueClosedFormConfig, *, policy: Policy, critic: ActorCriticPolicy | None = None
    ) -> None:
        super().__init__(policy)
        self.sit(config, critic)

    def generate(self, observation: dict[str, Tensor], request: Request) -> Generation:
        """One chunk from K sampled ones.

        Raises:
            MissingCapability: the noise is given; the samples' spread needs more.
        """
        proposal = self.propose(observation, request, self.config.candidates)
        code, values = proposal.code, proposal.values
        alone = self.judge.bind(observation, request.noise.shape[1])
        mean = code.mean(1)
        before, slope = energy_and_slope(alone, mean)
        better = improved(mean, code - mean[:, None], slope, self.config.tau)
        reached = alone(better)
        best, index = values.max(1)
        taken = reached > best
        rows = torch.arange(len(index), device=index.device)
        self.ledger.add(
            {
                "q_first": values[:, 0],
                "q_random": values.mean(1),
                "q_greedy": best,
                "q_mean": before,
                "q_improved": reached,
                "q_chosen": torch.maximum(reached, best),
                "improved_taken": taken.float(),
            }
        )
        self.spent(proposal)
        chosen = torch.where(taken[:, None, None], better, code[rows, index])
        return Generation(code=chosen, calls=proposal.made.calls)


def improved(mean: Tensor, deviations: Tensor, slope: Tensor, tau: float) -> Tensor:
    """a* `[N, Tp, Dz]`.

    Args:
        mean: `[N, Tp, Dz]`.
        deviations: of K samples from it, `[N, K, Tp, Dz]`.
        slope: dQ/da at the mean, `[N, Tp, Dz]`.
    """
    along = (deviations * slope[:, None]).sum((2, 3))
    moved = (along[..., None, None] * deviations).mean(1)
    length = along.square().mean(1).sqrt()[:, None, None]
    return mean + (2 * tau) ** 0.5 * torch.where(length > 0, moved / length.clamp_min(1e-30), 0.0)
