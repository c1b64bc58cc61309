"""Analytic costs of plans, and denoisers that descend them with normalised gradients.

For data of unit variance tilted by ``exp(-w u.x)`` with a unit vector u the ideal denoiser is moved by

    - w sigma^2 / (1 + sigma^2) u

at every noise level. That is how far `descending` moves the clean estimate along a cost's gradient, whatever
the gradient's size, whose unit nobody knows: w is the length, in encoded actions, by which the row that
matters most would be moved were there nothing but noise. It never moves further than to where the cost would
vanish to first order (Polyak's step), so that a plan without cost is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robopolicy.diffusion.corrector import Corrector
from robopolicy.diffusion.denoiser import Denoiser
from robopolicy.diffusion.energy import Energy, energy_and_slope
from robopolicy.errors import ConfigError, unknown
from robopolicy.policies.policy import Policy
from robopolicy.registry import register
from robopolicy.steering.positions import Positions, PositionsConfig
from robopolicy.steering.steer import SteeredField

__all__ = [
    "Cost",
    "Costs",
    "CostsConfig",
    "descending",
    "obstacle_cost",
    "smoothness_cost",
    "step_down",
    "workspace_cost",
]

Cost = Energy
"""A chunk `[N, Tp, D]` to what it costs `[N]`: 0 where nothing is wrong, never less."""


def obstacle_cost(positions: Tensor, centres: Tensor, radius: float) -> Tensor:
    """How deep positions `[N, Tp, P]` lie inside balls around `[N, M, P]`, summed over rows: `[N]`."""
    gap = torch.linalg.vector_norm(positions[:, :, None] - centres[:, None], dim=-1)
    return (radius - gap).clamp_min(0).sum((1, 2))


def workspace_cost(positions: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """How far positions `[N, Tp, P]` lie outside a box `[P]`, summed over rows and coordinates: `[N]`."""
    outside = (low - positions).clamp_min(0) + (positions - high).clamp_min(0)
    return outside.sum((1, 2))


def smoothness_cost(positions: Tensor) -> Tensor:
    """Sum of squared second differences of positions `[N, Tp, P]`: `[N]`."""
    return torch.diff(positions, n=2, dim=1).square().sum((1, 2))


def step_down(cost: Cost, chunk: Tensor, length: Tensor) -> Tensor:
    """The change `[N, Tp, D]` of a chunk by which its cost falls.

    Args:
        length: of the largest row of the change, `[N]`; less where less would do (to first order).
    """
    value, slope = energy_and_slope(cost, chunk)
    largest = slope.norm(dim=-1).amax(1)
    scale = torch.minimum(length / largest, value / slope.square().sum((1, 2)))
    return -torch.where(largest > 0, scale, 0.0)[:, None, None] * slope


def descending(
    denoiser: Denoiser, costs: Sequence[Cost], weights: Sequence[float], *, stop: float = 0.0
) -> Denoiser:
    """The denoiser whose clean estimate goes down the costs, each with its own normalised gradient.

    Args:
        costs: of encoded chunks.
        weights: w for each; those of weight 0 are never asked.
        stop: noise level below which nothing is changed.

    Raises:
        ConfigError: numbers of costs and weights that differ, or a negative weight.
    """
    if len(costs) != len(weights) or min(weights, default=0) < 0 or stop < 0:
        raise ConfigError(
            f"Each cost needs a weight >= 0, and stop >= 0: {len(costs)} costs, {list(weights)}, {stop}."
        )
    used = [(cost, weight) for cost, weight in zip(costs, weights, strict=True) if weight]
    if not used:
        return denoiser

    def estimate(x: Tensor, sigma: Tensor) -> Tensor:
        clean = denoiser(x, sigma)
        share = torch.where(sigma >= stop, sigma**2 / (1 + sigma**2), 0.0)
        return clean + sum(step_down(cost, clean, weight * share) for cost, weight in used)

    return estimate


@dataclass(frozen=True, kw_only=True)
class CostsConfig:
    """Weights of the costs, in encoded actions (half the range of the data is 1); 0 is off."""

    obstacle: float = 0.0
    smoothness: float = 0.0
    workspace: float = 0.0
    obstacles: str = ""
    """State observation that holds the centres, M times P numbers."""
    radius: float = 0.0
    """Distance to keep from a centre."""
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    """The box of the workspace, `[P]`."""
    stop: float = 0.0
    """Noise level below which costs are left out."""
    corrector: Corrector = field(default_factory=lambda: Corrector(steps=4, eta=0.3))
    positions: PositionsConfig = field(default_factory=PositionsConfig)

    def __post_init__(self) -> None:
        if min(self.obstacle, self.smoothness, self.workspace, self.stop) < 0:
            raise ConfigError(f"costs: weights and stop must be >= 0, got {self}.")
        if self.obstacle and (not self.obstacles or self.radius <= 0):
            raise ConfigError("costs: obstacle needs obstacles (an observation) and a radius > 0.")
        if self.workspace and (
            not self.low
            or len(self.low) != len(self.high)
            or any(a >= b for a, b in zip(self.low, self.high, strict=True))
        ):
            raise ConfigError(f"costs: workspace needs low < high, got {self.low} and {self.high}.")


@register("steer", "costs")
class Costs(SteeredField):
    """A policy that avoids obstacles, stays in a box and moves smoothly (PoCo's behaviour level).

    Raises:
        ConfigError: observations or a box that do not fit the positions of the action.
    """

    def __init__(self, config: CostsConfig, *, policy: Policy) -> None:
        super().__init__(policy)
        self.config = config
        self.correct(config.corrector)
        self.positions = Positions(config.positions, policy.spec, policy.obs_horizon)
        size = self.positions.size
        if config.obstacle:
            if config.obstacles not in policy.spec.observations:
                raise ConfigError(
                    "costs.obstacles: " + unknown("observation", config.obstacles, policy.spec.observations)
                )
            shape = policy.spec.observations[config.obstacles].shape
            if torch.Size(shape).numel() % size:
                raise ConfigError(
                    f"costs: {config.obstacles!r} {list(shape)} are no points of {size} numbers."
                )
        if config.workspace and len(config.low) != size:
            raise ConfigError(f"costs: low and high have {len(config.low)} numbers, positions {size}.")

    def bend(self, field: Denoiser, observation: Mapping[str, Tensor], n: int) -> Denoiser:
        """The field with the costs of the decoded plan."""
        rows = {key: value.repeat_interleave(n, 0) for key, value in observation.items()}
        config, positions = self.config, self.positions
        here = positions.here(rows)

        def plan(code: Tensor) -> Tensor:
            return positions.of(self.codec.decode_action(code, rows), here)

        def ahead(code: Tensor) -> Tensor:
            return plan(code)[:, positions.past :]

        costs: list[tuple[Cost, float]] = [(lambda code: smoothness_cost(plan(code)), config.smoothness)]
        if config.obstacle:
            centres = rows[config.obstacles][:, -1].flatten(1).unflatten(1, (-1, positions.size))
            costs.append((lambda code: obstacle_cost(ahead(code), centres, config.radius), config.obstacle))
        if config.workspace:
            low, high = (here.new_tensor(bound) for bound in (config.low, config.high))
            costs.append((lambda code: workspace_cost(ahead(code), low, high), config.workspace))

        return descending(field, [c for c, _ in costs], [w for _, w in costs], stop=config.stop)
