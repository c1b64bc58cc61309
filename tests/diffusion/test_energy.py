from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from robopolicy.diffusion.energy import (
    BudgetConfig,
    DescentConfig,
    denoised,
    descend,
    descent_step,
    energy_and_slope,
    langevin_scale,
    normalized,
)
from robopolicy.errors import ConfigError

PLAIN = DescentConfig(momentum=0.0, normalize=False)


def bowl(x: Tensor) -> Tensor:
    """Its gradient, times the number of entries, is x."""
    return 0.5 * x.square().mean((1, 2))


def chunks(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_slope_of_a_bowl_without_gradients_enabled_and_with_frozen_weights() -> None:
    weight = nn.Parameter(torch.tensor(2.0, dtype=torch.float64), requires_grad=False)
    x = chunks(3, 4, 2)
    with torch.no_grad():
        value, slope = energy_and_slope(lambda a: weight * bowl(a), x)
    assert torch.allclose(value, x.square().mean((1, 2)))
    assert torch.allclose(slope, 2 * x / 8)
    assert not slope.requires_grad
    assert not x.requires_grad


def test_inference_mode_is_refused() -> None:
    with torch.inference_mode(), pytest.raises(ConfigError, match="no_grad"):
        energy_and_slope(bowl, chunks(1, 2, 2))


def test_the_exact_energy_of_a_gaussian_denoises_exactly() -> None:
    """For data N(m, s^2) the noisy density is N(m, s^2 + sigma^2), and E[clean | x] is known."""
    mean, deviation, x = 0.7, 0.3, chunks(5, 4, 2)
    sigma = torch.tensor([0.01, 0.1, 1.0, 3.0, 50.0], dtype=torch.float64)

    def energy(a: Tensor) -> Tensor:
        return (a - mean).square().sum((1, 2)) / (2 * (deviation**2 + sigma**2))

    weight = (deviation**2 / (deviation**2 + sigma**2))[:, None, None]
    assert torch.allclose(denoised(energy, x, sigma)[0], mean + weight * (x - mean))


def test_the_estimate_is_differentiable_with_respect_to_weights() -> None:
    x, sigma = chunks(3, 4, 2), torch.tensor([0.1, 1.0, 2.0], dtype=torch.float64)
    weight = chunks(2, 2, seed=1).requires_grad_()

    def estimate(w: Tensor) -> Tensor:
        return denoised(lambda a: torch.tanh(a @ w).sum((1, 2)), x, sigma, create_graph=True)[0]

    assert torch.autograd.gradcheck(estimate, weight)


def test_a_chunk_is_normalised_by_itself() -> None:
    x = chunks(3, 4, 2)
    others = torch.cat([x[:1], 10 * x[1:]])
    assert torch.equal(normalized(x)[0], normalized(others)[0])
    assert torch.allclose(normalized(x).square().mean((1, 2)), torch.ones(3, dtype=torch.float64))
    assert normalized(torch.zeros(1, 4, 2)).abs().max() == 0


@pytest.mark.parametrize("shape", [(1, 1), (8, 2), (16, 7)])
def test_a_step_moves_entries_alike_whatever_the_size_of_the_chunk(shape: tuple[int, int]) -> None:
    x = torch.full((1, *shape), 0.5, dtype=torch.float64)
    step = descent_step(bowl, x, torch.zeros_like(x), PLAIN)
    expected = 0.5 - torch.tensor(0.125, dtype=torch.float64).exp() * 0.5
    assert torch.allclose(step.x, expected.expand_as(x))
    assert float(step.slope) == pytest.approx(0.5)


def test_a_step_equals_the_published_rule() -> None:
    """Nesterov: look ahead by the momentum, then v = mu v - alpha exp(E) / T g and A = A + v."""
    alpha, temperature, momentum = 1000.0, 9.0, 0.9
    x, velocity, noise = chunks(2, 16, 7), 0.1 * chunks(2, 16, 7, seed=1), 0.2 * chunks(2, 16, 7, seed=2)
    config = DescentConfig(step_size=alpha / temperature / 112)
    step = descent_step(bowl, x, velocity, config, noise=noise)
    for i in range(2):
        start = torch.nn.functional.rms_norm(x[i], x[i].shape, eps=0.0) + noise[i]
        ahead = start + momentum * velocity[i]
        gradient, energy = ahead / 112, 0.5 * ahead.square().mean()
        after = momentum * velocity[i] - alpha * energy.exp() / temperature * gradient
        assert torch.allclose(step.x[i], start + after)


def test_the_exponential_of_the_energy_is_bounded() -> None:
    for shift in (-1e3, 1e3):
        step = descent_step(
            lambda a, shift=shift: bowl(a) + shift, chunks(1, 4, 2), torch.zeros(1, 4, 2), PLAIN
        )
        assert torch.isfinite(step.x).all()
        assert float(step.scale.log().abs()) == pytest.approx(3.0)


def test_gradients_reach_through_the_last_step_alone() -> None:
    """x1 = x0 (1 - w e^E(x0)), then x2 = x1 (1 - w e^E(x1)); only the second w counts."""
    weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    x = torch.full((1, 1, 1), 0.8, dtype=torch.float64)
    zero = torch.zeros_like(x)
    first = descent_step(lambda a: weight * bowl(a), x, zero, PLAIN)
    assert not first.x.requires_grad
    second = descent_step(lambda a: weight * bowl(a), first.x, zero, PLAIN, create_graph=True)
    second.x.sum().backward()
    a, w = float(first.x), float(weight.detach())
    scale = float(torch.tensor(w * a * a / 2).exp())
    assert float(weight.grad) == pytest.approx(-a * scale - w * a * scale * a * a / 2, rel=1e-5)  # type: ignore[arg-type]


def test_every_chunk_stops_by_itself() -> None:
    steepness = torch.tensor([0.9, 0.3, 0.1], dtype=torch.float64)
    x = torch.ones(3, 4, 2, dtype=torch.float64)

    def run(rows: list[int]) -> tuple[Tensor, Tensor]:
        found = descend(
            lambda a: steepness[rows] * bowl(a), x[rows], PLAIN, BudgetConfig(steps=200, tolerance=1e-3)
        )
        return found.x, found.steps

    together, counts = run([0, 1, 2])
    assert counts[0] < counts[1] < counts[2] < 200
    for row in range(3):
        alone, count = run([row])
        assert torch.equal(alone[0], together[row])
        assert count[0] == counts[row]
    assert float((steepness * together[:, 0, 0]).abs().max()) < 2e-3


def test_normalised_chunks_come_to_rest_where_the_gradient_does_not_vanish() -> None:
    """Pulled towards 0.5 and back to 1: at rest v = A - 1 and so slope = (1 - mu) (1 - A) / exp(E)."""
    config = DescentConfig(step_size=0.2)
    target = torch.full((1, 4, 2), 0.5, dtype=torch.float64)
    start = torch.full_like(target, 0.7)
    found = descend(lambda a: bowl(a - target), start, config, BudgetConfig(steps=100, tolerance=1e-6))
    assert found.steps[0] < 100
    last = descent_step(lambda a: bowl(a - target), found.x, found.x - 1, config)
    assert torch.allclose(last.x, found.x, atol=1e-5)
    assert float(last.slope) == pytest.approx(
        0.1 * float(1 - found.x[0, 0, 0]) / 0.2 / float(last.scale), rel=1e-3
    )


def test_the_budget_ends_a_descent() -> None:
    found = descend(bowl, chunks(2, 4, 2), PLAIN, BudgetConfig(steps=3, tolerance=0.0))
    assert found.steps.tolist() == [3, 3]


def test_langevin_noise_is_annealed_from_largest_to_smallest() -> None:
    scales = [langevin_scale(k, 8, 0.2, 0.002) for k in range(9)]
    assert scales[0] == pytest.approx(0.2)
    assert scales[-1] == pytest.approx(0.002)
    assert all(a > b for a, b in itertools.pairwise(scales))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="momentum"):
        DescentConfig(momentum=1.0)
    with pytest.raises(ConfigError, match="steps >= 1"):
        BudgetConfig(steps=0)
