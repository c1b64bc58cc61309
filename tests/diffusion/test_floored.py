from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robopolicy.diffusion.floored import Floored, FlooredConfig
from robopolicy.diffusion.samplers import DDIM, DDIMConfig
from tests.diffusion.gaussians import gaussian, normal

our_denoiser = gaussian(0.3, 0.4)


def floored(**changes: object) -> Floored:
    config = FlooredConfig(**{"steps": 10, "eta": 0.5, "floor": 0.1, "last": True, **changes})  # type: ignore[arg-type]
    return Floored(config, train_steps=100, schedule="squaredcos_cap_v2")


def published(sampler: Floored, eta: float) -> tuple[Tensor, Tensor, Tensor]:
    """alpha bar before and after each step, and DDIM's deviation (Song et al. 2021, eq. 16), `[K]` each."""
    keep = 1 / (1 + sampler.sigmas**2)
    before, after = keep[:-1], keep[1:]
    return before, after, eta * ((1 - after) / (1 - before) * (1 - before / after)).sqrt()


@pytest.mark.parametrize("eta", [0.3, 0.5, 1.0])
def test_steps_are_those_of_ddim_with_a_floor_on_the_noise_alone(eta: float) -> None:
    sampler = floored(eta=eta)
    before, after, spread = published(sampler, eta)
    assert (spread < 0.1).any()
    assert (spread > 0.1).any()
    noise = normal(10, 6, 4, 3, seed=1).clamp(-3, 3)
    chain: list[Tensor] = []
    sampler.solve(our_denoiser, sampler.start(normal(6, 4, 3)), step_noise=noise, chain=chain)
    for k in range(10):
        clean = our_denoiser(chain[k], chain[k].new_full((6,), float(sampler.sigmas[k])))
        x = before[k].sqrt() * chain[k]  # variance-preserving
        direction = (x - before[k].sqrt() * clean) / (1 - before[k]).sqrt()
        mean = after[k].sqrt() * clean + (1 - after[k] - spread[k] ** 2).clamp_min(0).sqrt() * direction
        expected = mean + spread[k].clamp_min(0.1) * noise[k]
        torch.testing.assert_close(after[k].sqrt() * chain[k + 1], expected, rtol=1e-9, atol=1e-12)


def test_without_a_floor_worth_the_name_it_is_ddim() -> None:
    start, noise = normal(6, 4, 3), normal(10, 6, 4, 3, seed=1)
    sampler = floored(floor=1e-9, last=False, noise_clip=99.0)
    ddim = DDIM(DDIMConfig(steps=10, eta=0.5), train_steps=100, schedule="squaredcos_cap_v2")
    x = sampler.start(start)
    expected = ddim.solve(our_denoiser, x, step_noise=noise)
    torch.testing.assert_close(sampler.solve(our_denoiser, x, step_noise=noise), expected)


def test_the_last_step_has_the_floor_only_where_it_is_told_to() -> None:
    for last, deviation in ((True, 0.1), (False, 0.0)):
        assert float(floored(last=last).deviation[-1]) == deviation
    assert float(floored(last=False).deviation[-2]) > 0.1


def test_draws_are_clipped() -> None:
    sampler, x = floored(noise_clip=2.0), normal(6, 4, 3)
    noise = 10 * normal(10, 6, 4, 3, seed=1)
    found = sampler.solve(our_denoiser, x, step_noise=noise)
    assert torch.equal(found, sampler.solve(our_denoiser, x, step_noise=noise.clamp(-2, 2)))


def test_without_its_first_levels_it_goes_on_from_where_it_was() -> None:
    sampler, noise = floored(), normal(10, 6, 4, 3, seed=1)
    chain: list[Tensor] = []
    whole = sampler.solve(our_denoiser, sampler.start(normal(6, 4, 3)), step_noise=noise, chain=chain)
    for skipped in (0, 4, 9):
        rest = sampler.below(skipped).solve(our_denoiser, chain[skipped], step_noise=noise[skipped:])
        assert torch.equal(rest, whole)


def test_a_spacing_that_begins_below_full_noise_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="spacing=leading begins below the noise"):
        floored(spacing="leading")
