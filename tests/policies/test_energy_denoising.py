from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from robopolicy.errors import ConfigError
from robopolicy.learning.checkpoint import load, save_checkpoint
from robopolicy.policies.energy_denoising import EnergyDenoisingPolicy
from tests.policies.test_energy_published import NETWORKS, generators
from tests.policies.two_modes import assert_two_modes, learn, make, observe, random_batch


def denoising(**changes: Any) -> EnergyDenoisingPolicy:
    policy = make("energy_denoising", **changes)
    assert isinstance(policy, EnergyDenoisingPolicy)
    return policy


def raw(batch: int) -> dict[str, torch.Tensor]:
    return {key: torch.as_tensor(value) for key, value in observe(batch).items()}


def test_it_finds_both_modes() -> None:
    policy = denoising(sampler={"name": "ddim", "steps": 20})
    assert_two_modes(learn(policy, steps=300))


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n["name"])
def test_every_network_can_be_an_energy(network: dict[str, Any]) -> None:
    policy = denoising(network=network)
    loss, logs = policy.loss(random_batch(4), torch.Generator().manual_seed(0))
    loss.backward()
    gradients = [p.grad for p in policy.network.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients)
    assert any(g.abs().max() > 0 for g in gradients)
    assert logs["energy"] > 0


def test_the_denoiser_is_minus_sigma_squared_times_the_slope_of_the_energy() -> None:
    """Against finite differences of the energy itself."""
    policy = denoising().double()
    condition = torch.randn(1, 2, 5, dtype=torch.float64)
    x, sigma = torch.randn(1, 8, 2, dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64)
    estimate, h = policy.denoiser(condition)(x, sigma), 1e-5
    energy = policy.energy(condition, sigma)
    for row, column in [(0, 0), (3, 1), (7, 0)]:
        nudge = torch.zeros_like(x)
        nudge[0, row, column] = h
        slope = float((energy(x + nudge) - energy(x - nudge)).detach()) / (2 * h)
        expected = float(x[0, row, column]) - 0.49 * slope
        assert float(estimate[0, row, column].detach()) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_denoiser_is_differentiable_only_where_gradients_are_enabled() -> None:
    policy = denoising()
    denoiser = policy.denoiser(policy.condition(raw(2)))
    x = torch.randn(2, 8, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(denoiser(x, torch.ones(2)).sum(), x)
    assert slope.abs().max() > 0
    with torch.no_grad():
        assert not denoiser(x, torch.ones(2)).requires_grad


@pytest.mark.parametrize("sampler", [{"name": "ddim", "steps": 4}, {"name": "ddpm", "steps": 5}])
def test_a_row_does_not_depend_on_its_batch(sampler: dict[str, Any]) -> None:
    policy, seen = denoising(sampler=sampler), observe(3)
    whole = policy.sample(seen, n=2, generator=generators(1, 2, 3))
    swapped = {key: value[[0, 2, 1]] for key, value in seen.items()}
    again = policy.sample(swapped, n=2, generator=generators(1, 5, 6))
    np.testing.assert_array_equal(whole.actions[0], again.actions[0])
    np.testing.assert_array_equal(whole.energy[0], again.energy[0])


def test_the_energy_is_that_of_the_chunk_and_records_a_chain() -> None:
    policy = denoising(sampler={"name": "ddpm", "steps": 5}).requires_grad_(False)
    seen = raw(2)
    sample = policy.sample(seen, n=3, record=True)
    assert sample.chain.shape == (6, 2, 3, 8, 2)
    code = sample.chain[-1].flatten(0, 1)
    condition = policy.condition(seen).repeat_interleave(3, 0)
    expected = policy.energy(condition, policy.sigmas[0].expand(6))(code)
    assert torch.allclose(sample.energy.flatten(), expected, rtol=1e-5)


def test_it_saves_and_loads(tmp_path: Any) -> None:
    policy, seen = denoising(), observe(2)
    save_checkpoint(tmp_path / "energy", policy)
    noise = torch.randn(2, 1, *policy.noise_shape)
    first, second = (p.sample(seen, noise=noise) for p in (policy, load(tmp_path / "energy")))
    np.testing.assert_array_equal(first.actions, second.actions)
    np.testing.assert_array_equal(first.energy, second.energy)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="train_steps"):
        denoising(train_steps=0)
