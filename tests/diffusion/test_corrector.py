from __future__ import annotations

import pytest

from robopolicy.diffusion.corrector import langevin
from tests.diffusion.gaussians import gaussian, normal

SIGMA = 0.3


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_stationary_distribution_of_a_gaussian(temperature: float) -> None:
    """N(1, 0.5^2) with noise 0.3: at temperature 1 its own deviation, else `temperature` times that."""
    eta = 0.05
    x = langevin(gaussian(1.0, 0.5), normal(20_000, 1, 1), SIGMA, normal(300, 20_000, 1, 1, seed=1),
                 eta=eta, temperature=temperature)  # fmt: skip
    exact = (0.5**2 + SIGMA**2) ** 0.5
    assert float(x.mean()) == pytest.approx(1.0, abs=0.02)
    assert float(x.std()) == pytest.approx(temperature * exact, rel=0.02)


def test_at_vanishing_noise_it_is_the_data() -> None:
    """Deviation 0.50 of N(1, 0.5^2) itself, as the level's own noise becomes negligible."""
    sigma = 0.05
    x = langevin(gaussian(1.0, 0.5), normal(5_000, 1, 1), sigma, normal(1_200, 5_000, 1, 1, seed=1), eta=0.5)
    assert float(x.std()) == pytest.approx(0.50, rel=0.03)


def test_temperature_zero_climbs_to_the_mode() -> None:
    x = langevin(gaussian(1.0, 0.5), normal(100, 1, 1), SIGMA, normal(200, 100, 1, 1), eta=0.5, temperature=0)
    assert float((x - 1).abs().max()) < 1e-6
