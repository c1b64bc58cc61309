from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from robopolicy.diffusion.noise import SigmaRange, sampling_sigmas, sigma_table
from robopolicy.diffusion.samplers import Sampler, denoise
from robopolicy.diffusion.solvers import dpm_multistep, heun
from robopolicy.errors import ConfigError
from robopolicy.registry import build
from tests.diffusion.gaussians import gaussian, normal, path_end

COSINE: dict[str, Any] = {"train_steps": 100, "schedule": "squaredcos_cap_v2"}
LOW: dict[str, Any] = {"train_steps": 100, "schedule": SigmaRange(0.005, 80.0)}
NAMES = ("ddim", "ddpm", "dpm", "heun")


def make(name: str, *, levels: dict[str, Any] = COSINE, **settings: Any) -> Sampler:
    sampler = build("sampler", {"name": name, **settings}, **levels)
    assert isinstance(sampler, Sampler)
    return sampler


@pytest.mark.parametrize(
    ("solve", "order"), [(denoise, 1), (dpm_multistep, 2), (heun, 2)], ids=["ddim", "dpm", "heun"]
)
def test_order_of_convergence(solve: Callable[..., Tensor], order: int) -> None:
    """Halving the steps (in log noise) divides the error of the path's end by 2 ** order."""
    mean, deviation, start, end = 0.7, 0.4, 8.0, 0.02
    x = mean + start * normal(16, 2, 3)
    exact = path_end(x, mean, deviation, start, end)
    errors = []
    for steps in (40, 80, 160, 320):
        sigmas = torch.logspace(math.log10(start), math.log10(end), steps + 1, dtype=torch.float64)
        errors.append(float((solve(gaussian(mean, deviation), x, sigmas) - exact).abs().max()))
    found = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert found[-1] == pytest.approx(order, abs=0.1), found
    assert (errors[-1] < 1e-3) == (order == 2)


@pytest.mark.parametrize("name", NAMES)
def test_every_sampler_makes_the_data(name: str) -> None:
    sampler = make(name, steps=200, levels=LOW, spacing="exponential")
    start = sampler.start(normal(20_000, 1, 1))
    step_noise = normal(sampler.draws, *start.shape, seed=1) if sampler.draws else None
    x = sampler.solve(gaussian(0.7, 0.3), start, step_noise=step_noise)
    assert float(x.mean()) == pytest.approx(0.7, abs=0.01)
    assert float(x.std()) == pytest.approx(0.3, rel=0.04)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("corrector", [0, 3])
def test_calls_and_draws_are_what_happens(name: str, corrector: int) -> None:
    sampler = make(name, steps=5, corrector={"steps": corrector})
    levels: list[float] = []

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        levels.append(float(sigma[0]))
        return gaussian(0.0, 1.0)(x, sigma)

    start = normal(2, 4, 3)
    sampler.solve(counted, start)
    assert len(levels) == sampler.calls(corrected=False) == (9 if name == "heun" else 5)
    levels.clear()
    assert sampler.draws == 5 * ((name == "ddpm") + corrector)
    if sampler.draws:
        sampler.solve(counted, start, step_noise=normal(sampler.draws, 2, 4, 3))
        assert len(levels) == sampler.calls() == (9 if name == "heun" else 5) + 5 * corrector
        assert sorted(set(levels), reverse=True) == pytest.approx(sampler.sigmas[:-1].tolist())


@pytest.mark.parametrize("name", NAMES)
def test_clipped_estimates_end_inside(name: str) -> None:
    bounds = (torch.full((3,), -0.5).double(), torch.full((3,), 0.5).double())
    x = make(name, steps=5).solve(gaussian(1.0, 1.0), normal(8, 4, 3), clip=bounds)
    assert x.abs().max() <= 0.5


@pytest.mark.parametrize("name", ["dpm", "heun"])
def test_solvers_without_a_density_refuse_to_record(name: str) -> None:
    with pytest.raises(ConfigError, match="eta > 0"):
        make(name, steps=3).solve(gaussian(0.0, 1.0), normal(2, 4, 3), chain=[])


def test_a_corrected_path_is_not_recorded() -> None:
    sampler = make("ddpm", steps=3, corrector={"steps": 1})
    with pytest.raises(ConfigError, match="without a corrector"):
        sampler.solve(gaussian(0.0, 1.0), normal(2, 4, 3), step_noise=normal(6, 2, 4, 3), chain=[])


def test_the_exact_solution_needs_one_step_of_a_point() -> None:
    """Data that is one point: D is constant, and every solver is exact however few its steps."""
    for name in ("ddim", "dpm", "heun"):
        x = make(name, steps=2).solve(lambda x, sigma: torch.full_like(x, 0.3), normal(2, 4, 3))
        torch.testing.assert_close(x, torch.full_like(x, 0.3))


def test_spacings_lie_between_the_tables_ends() -> None:
    table = sigma_table(100, "squaredcos_cap_v2")
    for spacing in ("karras", "exponential"):
        sigmas = sampling_sigmas(7, 100, "squaredcos_cap_v2", spacing)
        torch.testing.assert_close(sigmas[[0, -2, -1]], torch.stack([table[-1], table[0], table[0] * 0]))
        assert (sigmas.diff() < 0).all()
    ratios = sampling_sigmas(7, 100, "squaredcos_cap_v2", "exponential")[:-1].log().diff()
    torch.testing.assert_close(ratios, ratios[:1].expand(6))
    roots = sampling_sigmas(7, 100, "squaredcos_cap_v2", "karras")[:-1].pow(1 / 7).diff()
    torch.testing.assert_close(roots, roots[:1].expand(6))
    assert sampling_sigmas(3, 100, SigmaRange(0.01, 1.0), "exponential").tolist() == pytest.approx(
        [1.0, 0.1, 0.01, 0.0]
    )


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="steps >= 1"):
        make("dpm", steps=0)
    with pytest.raises(ConfigError, match="'karas'"):
        make("heun", spacing="karas")
    with pytest.raises(ConfigError, match="0 < low < high"):
        SigmaRange(1.0, 0.1)
    for wrong in ({"steps": -1}, {"eta": 0.0}, {"temperature": -0.5}):
        with pytest.raises(ConfigError, match="corrector needs"):
            make("ddim", corrector=wrong)
    with pytest.raises(ConfigError, match="ddim, ddpm, dpm"):
        make("euler")
