from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from robopolicy.diffusion.inpaint import GuidedContinuation, Inpaint
from robopolicy.errors import ConfigError

TP = 6


def gaussian(covariance: Tensor) -> object:
    """The denoiser of a zero-mean Gaussian over chunks [Tp], every action dimension alike."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        gain = covariance @ torch.linalg.inv(covariance + sigma[0] ** 2 * torch.eye(TP, dtype=x.dtype))
        return torch.einsum("ij,bjd->bid", gain, x)

    return denoise


def smooth() -> Tensor:
    index = torch.arange(TP, dtype=torch.float64)
    return torch.exp(-0.5 * ((index[:, None] - index) / 2.0) ** 2) + 1e-6 * torch.eye(TP, dtype=torch.float64)


def integrate(denoiser: object, x: Tensor, steps: int = 400) -> Tensor:
    """dx/dsigma = (x - D(x)) / sigma from sigma 80 to 0, Euler."""
    sigmas = torch.logspace(1.9, -3, steps, dtype=torch.float64)
    for sigma, following in itertools.pairwise(sigmas):
        clean = denoiser(x, sigma.expand(len(x)))  # type: ignore[operator]
        x = clean + following / sigma * (x - clean)
    return x


def known_chunk() -> Tensor:
    return torch.linspace(0.5, -0.5, TP, dtype=torch.float64)[None, :, None].expand(3, TP, 2)


def test_inpainting_replaces_given_rows_and_leaves_free_ones() -> None:
    weights = torch.tensor([1.0, 0.5, 0, 0, 0, 0])
    x, sigma = torch.randn(3, TP, 2, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    base, known = gaussian(smooth()), known_chunk()
    clean, held = base(x, sigma), Inpaint(base, known, weights)(x, sigma)  # type: ignore[operator, arg-type]
    torch.testing.assert_close(held[:, 0], known[:, 0])
    torch.testing.assert_close(held[:, 1], 0.5 * (known[:, 1] + clean[:, 1]))
    torch.testing.assert_close(held[:, 2:], clean[:, 2:])


def test_full_jacobian_carries_the_prefix_to_the_rows_after_it() -> None:
    torch.manual_seed(0)
    covariance, known = smooth(), known_chunk()
    weights = torch.tensor([1.0, 1.0, 0, 0, 0, 0])
    x, sigma = torch.randn(3, TP, 2, dtype=torch.float64), torch.full((3,), 2.0, dtype=torch.float64)
    base = gaussian(covariance)
    gain = covariance @ torch.linalg.inv(covariance + 4.0 * torch.eye(TP, dtype=torch.float64))
    clean = base(x, sigma)  # type: ignore[operator]
    pulled = torch.einsum("ji,bjd->bid", gain, weights[:, None].double() * (known - clean))
    expected = clean + min(5.0 * 2.0, 5.0) * pulled
    with torch.inference_mode():
        guided = GuidedContinuation(base, known, weights)(x, sigma)  # type: ignore[arg-type]
    torch.testing.assert_close(guided, expected)
    assert (guided - clean)[:, 3].abs().min() > 1e-3


@pytest.mark.parametrize("sigma", [0.1, 1.0, 7.0, 50.0])
def test_the_pull_is_the_papers_in_other_units(sigma: float) -> None:
    t = 1 / (1 + sigma)
    squared = (1 - t) ** 2 / (t**2 + (1 - t) ** 2)
    velocity = min(5.0, (1 - t) / (t * squared))
    # The clean estimate moves by (1 - t) times the velocity; the gradient by x / t is t times that by x.
    expected = (1 - t) / t * velocity
    still = torch.zeros(1, TP, 1, dtype=torch.float64)
    guided = GuidedContinuation(lambda x, _: x, still + 1, torch.ones(TP))
    assert float(guided(still, torch.tensor([sigma]).double())[0, 0, 0]) == pytest.approx(expected)


def test_sampling_meets_the_prefix_and_joins_it_smoothly() -> None:
    torch.manual_seed(0)
    known = known_chunk()
    weights = torch.tensor([1.0, 1.0, 1.0, 0, 0, 0])
    start = 80 * torch.randn(3, TP, 2, dtype=torch.float64)
    base = gaussian(smooth())
    free = integrate(base, start)
    hard = integrate(Inpaint(base, known, weights), start)  # type: ignore[arg-type]
    guided = integrate(GuidedContinuation(base, known, weights), start)  # type: ignore[arg-type]
    assert (free - known)[:, :3].abs().mean() > 0.3
    torch.testing.assert_close(hard[:, :3], known[:, :3], atol=1e-2, rtol=0)
    missed = [(chunk - known)[:, :3].abs().mean() for chunk in (guided, free)]
    assert missed[0] < 0.15 * missed[1]
    seam = [(chunk[:, 3] - chunk[:, 2]).abs().mean() for chunk in (guided, hard)]
    assert seam[0] < 0.8
    assert seam[1] < 0.8


def test_nothing_held_is_the_base() -> None:
    x, sigma = torch.randn(3, TP, 2, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    base = gaussian(smooth())
    for held in (Inpaint, GuidedContinuation):
        result = held(base, known_chunk(), torch.zeros(TP))(x, sigma)  # type: ignore[arg-type]
        torch.testing.assert_close(result, base(x, sigma))  # type: ignore[operator]


def test_errors() -> None:
    base = gaussian(smooth())
    with pytest.raises(ConfigError, match=r"got \[3, 6, 2\] and \[5\]"):
        Inpaint(base, known_chunk(), torch.zeros(5))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="largest must be positive, got 0"):
        GuidedContinuation(base, known_chunk(), torch.zeros(TP), largest=0.0)  # type: ignore[arg-type]
