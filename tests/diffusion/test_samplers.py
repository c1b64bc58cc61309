from __future__ import annotations

import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor

from robopolicy.diffusion.noise import noise_level, sampling_sigmas, sigma_table
from robopolicy.diffusion.samplers import DDIM, DDPM, DDIMConfig, DDPMConfig, denoise
from robopolicy.errors import ConfigError

SCHEDULE = "squaredcos_cap_v2"


def predicted_noise(x: Tensor, level: Tensor) -> Tensor:
    """Some smooth function of the scaled chunk and the noise level, in place of a network."""
    return torch.tanh(x * 1.3 + level[:, None, None] / 100) * 0.9


def our_denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    column = sigma[:, None, None]
    return x - column * predicted_noise(x * torch.rsqrt(1 + column**2), noise_level(sigma))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 5, 10, 100])  # divisors of 100: elsewhere diffusers skips unevenly
@pytest.mark.parametrize("clip", [True, False])
def test_ddim_equals_diffusers(eta: float, steps: int, clip: bool) -> None:
    reference = DDIMScheduler(
        num_train_timesteps=100, beta_schedule=SCHEDULE, clip_sample=clip, timestep_spacing="trailing"
    )
    reference.set_timesteps(steps)
    sampler = DDIM(DDIMConfig(steps=steps, eta=eta), train_steps=100, schedule=SCHEDULE)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 8, 3, generator=generator, dtype=torch.float64)
    step_noise = torch.randn(steps, 4, 8, 3, generator=generator, dtype=torch.float64)

    table = sigma_table(100, SCHEDULE)
    expected = noise
    for k, t in enumerate(reference.timesteps):
        level = noise_level(table[int(t)].expand(4))
        output = predicted_noise(expected, level)
        expected = reference.step(
            output, int(t), expected, eta=eta, use_clipped_model_output=True, variance_noise=step_noise[k]
        ).prev_sample
    bounds = (torch.tensor(-1.0).double(), torch.tensor(1.0).double()) if clip else None
    ours = denoise(
        our_denoiser, sampler.start(noise), sampler.sigmas, eta=eta, step_noise=step_noise, clip=bounds
    )
    # diffusers keeps its tables in float32.
    assert (ours - expected).abs().max() < (1e-4 if clip else 2e-2)


def test_ddpm_equals_diffusers() -> None:
    reference = DDPMScheduler(num_train_timesteps=100, beta_schedule=SCHEDULE, clip_sample=True)
    reference.set_timesteps(100)
    sampler = DDPM(DDPMConfig(steps=100), train_steps=100, schedule=SCHEDULE)
    table = sigma_table(100, SCHEDULE)
    x = torch.randn(4, 8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = sampler.start(x)
    draws = []
    for t in reference.timesteps:
        generator = torch.Generator().manual_seed(int(t))
        draws.append(torch.randn(x.shape, generator=torch.Generator().manual_seed(int(t)), dtype=x.dtype))
        output = predicted_noise(x, noise_level(table[int(t)].expand(4)))
        x = reference.step(output, int(t), x, generator=generator).prev_sample
    bounds = (torch.tensor(-1.0).double(), torch.tensor(1.0).double())
    # Their noise is added in variance-preserving units, ours in units of clean data: v_ve = v_vp / abar'.
    ours = denoise(our_denoiser, start, sampler.sigmas, eta=1.0, step_noise=torch.stack(draws), clip=bounds)
    assert (ours - x).abs().max() < 1e-4


def test_the_exact_denoiser_recovers_a_gaussian() -> None:
    """For data N(m, s^2) the ideal denoiser is linear: samples must have mean m and deviation s."""
    mean, deviation = 0.7, 0.3

    def ideal(x: Tensor, sigma: Tensor) -> Tensor:
        weight = deviation**2 / (deviation**2 + sigma[:, None, None] ** 2)
        return mean + weight * (x - mean)

    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(20_000, 1, 1, generator=generator, dtype=torch.float64)
    for eta, steps, tolerance in [(0.0, 500, 0.02), (1.0, 500, 0.02)]:
        sampler = DDIM(DDIMConfig(steps=steps, eta=eta), train_steps=1000, schedule=SCHEDULE)
        step_noise = torch.randn(steps, *noise.shape, generator=generator, dtype=torch.float64)
        x = denoise(ideal, sampler.start(noise), sampler.sigmas, eta=eta, step_noise=step_noise)
        assert abs(float(x.mean()) - mean) < tolerance * deviation
        assert abs(float(x.std()) / deviation - 1) < tolerance


def test_noise_level_of_the_cosine_schedule_is_its_training_step() -> None:
    levels = noise_level(sigma_table(100, SCHEDULE))
    assert (levels - torch.arange(1, 101)).abs().max() < 1.2


def test_sampling_starts_at_the_top_and_ends_at_zero() -> None:
    table = sigma_table(100, SCHEDULE)
    for steps in (1, 2, 3, 10, 16, 100):
        sigmas = sampling_sigmas(steps, 100, SCHEDULE)
        assert (float(sigmas[0]), float(sigmas[-1])) == (float(table[-1]), 0)
        assert (sigmas.diff() < 0).all()
    assert sampling_sigmas(10, 100, SCHEDULE, "leading")[0] < table[-1]


def test_schedule_matches_the_closed_form() -> None:
    def abar(t: int) -> float:
        return (
            math.cos((t / 100 + 0.008) / 1.008 * math.pi / 2) ** 2
            / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
        )

    for t in (0, 10, 50, 90):
        expected = math.sqrt((1 - abar(t + 1)) / abar(t + 1))
        assert float(sigma_table(100, SCHEDULE)[t]) == pytest.approx(expected, rel=1e-4)


def test_recorded_chain_starts_at_noise_and_ends_at_the_sample() -> None:
    sampler = DDIM(DDIMConfig(steps=5), train_steps=100, schedule=SCHEDULE)
    chain: list[Tensor] = []
    start = sampler.start(torch.randn(2, 4, 3))
    x = denoise(our_denoiser, start, sampler.sigmas, chain=chain)
    assert len(chain) == 6
    assert torch.equal(chain[0], start)
    assert torch.equal(chain[-1], x)


def test_without_its_first_levels_a_sampler_goes_on_from_where_it_was() -> None:
    sampler = DDIM(DDIMConfig(steps=6), train_steps=100, schedule=SCHEDULE)
    x = sampler.start(torch.randn(2, 4, 3))
    whole = sampler.solve(our_denoiser, x)
    half = denoise(our_denoiser, x, sampler.sigmas[:3])
    assert torch.equal(sampler.below(2).solve(our_denoiser, half), whole)
    assert (sampler.below(2).calls(), sampler.calls()) == (4, 6)
    with pytest.raises(ConfigError, match="0 to 5 can be skipped"):
        sampler.below(6)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="1 to 100"):
        DDIM(DDIMConfig(steps=200), train_steps=100, schedule=SCHEDULE)
    with pytest.raises(ConfigError, match="eta"):
        DDIMConfig(eta=2.0)
    with pytest.raises(ConfigError, match="squaredcos"):
        sigma_table(100, "squaredcos")
