from __future__ import annotations

import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor

from robopolicy.diffusion.denoiser import (
    Denoiser,
    Network,
    Prediction,
    clean_estimate,
    network_scale,
    training_target,
)
from robopolicy.diffusion.noise import noise_level, sigma_table
from tests.diffusion.gaussians import gaussian, normal

PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "sample", "velocity")
SCHEDULE = "squaredcos_cap_v2"
SIGMAS = torch.logspace(-3, 3, 13, dtype=torch.float64)
CONDITION = torch.zeros(len(SIGMAS), 2, 5, dtype=torch.float64)


def network_of(denoiser: Denoiser, prediction: Prediction) -> Network:
    """What a network would have to say for `denoiser`, from nothing but what networks are told."""

    def network(x: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        sigma = torch.tan(level * math.pi / 200)
        column = sigma[:, None, None]
        noisy = x * torch.sqrt(1 + column**2)
        clean = denoiser(noisy, sigma)
        if prediction == "sample":
            return clean
        noise = (noisy - clean) / column
        return noise if prediction == "epsilon" else (noise - column * clean) / torch.sqrt(1 + column**2)

    return network


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_a_target_turned_back_is_the_clean_chunk(prediction: Prediction, seed: int) -> None:
    """The network that regresses its target perfectly denoises perfectly, at every noise level."""
    clean, noise = normal(2, len(SIGMAS), 4, 3, seed=seed)
    noisy = clean + SIGMAS[:, None, None] * noise
    target = training_target(prediction, clean, noise, SIGMAS)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def network(x: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        seen.append((x, level, condition))
        return target

    found = clean_estimate(network, prediction, noisy, SIGMAS, CONDITION)
    torch.testing.assert_close(found, clean, rtol=1e-9, atol=1e-9)
    ((x, level, condition),) = seen
    assert torch.equal(x, noisy * network_scale(SIGMAS))
    assert torch.equal(level, noise_level(SIGMAS))
    assert condition is CONDITION


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_one_denoiser_is_the_same_in_every_parameterisation(prediction: Prediction) -> None:
    ideal, x = gaussian(0.4, 0.7), 3 * normal(len(SIGMAS), 4, 3)
    found = clean_estimate(network_of(ideal, prediction), prediction, x, SIGMAS, CONDITION)
    torch.testing.assert_close(found, ideal(x, SIGMAS), rtol=1e-9, atol=1e-9)


def test_a_velocity_goes_from_the_noise_to_minus_the_clean_chunk() -> None:
    clean, noise = normal(2, len(SIGMAS), 4, 3)
    velocity = training_target("velocity", clean, noise, SIGMAS)
    torch.testing.assert_close(velocity[0], noise[0], rtol=0, atol=0.01)
    torch.testing.assert_close(velocity[-1], -clean[-1], rtol=0, atol=0.01)


def test_velocities_are_those_of_diffusers() -> None:
    scheduler = DDPMScheduler(num_train_timesteps=100, beta_schedule=SCHEDULE)
    steps = torch.tensor([0, 10, 50, 90, 99])
    clean, noise = normal(2, 5, 4, 3)
    expected = scheduler.get_velocity(clean, noise, steps)
    ours = training_target("velocity", clean, noise, sigma_table(100, SCHEDULE)[steps])
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)  # theirs come from float32 tables


def test_an_estimate_has_the_precision_of_the_chunk_whatever_the_network_has() -> None:
    x = normal(2, 4, 3).float()
    found = clean_estimate(lambda x, level, seen: x.bfloat16(), "sample", x, torch.ones(2), CONDITION[:2])
    assert found.dtype == torch.float32
