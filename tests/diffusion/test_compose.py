from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from robopolicy.codecs import Codec, CodecConfig
from robopolicy.diffusion.compose import change_of_normaliser, composed, guided, renormalised
from robopolicy.diffusion.denoiser import Denoiser
from robopolicy.diffusion.noise import SigmaRange
from robopolicy.errors import ConfigError
from robopolicy.registry import build
from robopolicy.spec import ActionSpec, ObservationSpec, Spec
from tests.diffusion.gaussians import gaussian, normal

SPEC = Spec(
    observations={"state": ObservationSpec(shape=(1,))},
    action=ActionSpec(names=("x", "y"), low=(-9.0, -9.0), high=(9.0, 9.0)),
    control_hz=10,
)


def sampled(denoiser: Denoiser, steps: int, rows: int = 10_000, size: int = 1) -> Tensor:
    """Chunks by DDIM with `steps` Langevin corrections at each of 60 levels."""
    sampler = build(
        "sampler",
        {"name": "ddim", "steps": 60, "spacing": "exponential", "corrector": {"steps": steps, "eta": 0.2}},
        train_steps=100,
        schedule=SigmaRange(0.02, 20.0),
    )
    noise = normal(sampler.draws, rows, 1, size, seed=1) if steps else None
    return sampler.solve(denoiser, sampler.start(normal(rows, 1, size)), step_noise=noise)


@pytest.mark.parametrize(
    ("weights", "deviation"), [((1.0, 1.0), 0.4472), ((0.5, 0.5), 0.6325)], ids=["product", "geometric mean"]
)
def test_langevin_samples_the_product_of_two_gaussians(
    weights: tuple[float, float], deviation: float
) -> None:
    """N(0, 1) and N(2, 0.5^2): precisions 1 and 4 add up to a product of mean 1.6 and deviation 5^-0.5."""
    found = sampled(composed([gaussian(0.0, 1.0), gaussian(2.0, 0.5)], weights), steps=20)
    assert float(found.mean()) == pytest.approx(1.6, rel=0.02)
    assert float(found.std()) == pytest.approx(deviation, rel=0.02)


def test_without_langevin_the_product_collapses() -> None:
    """The documented failure: a plain solver of summed fields gives another mean and no spread."""
    found = sampled(composed([gaussian(0.0, 1.0), gaussian(2.0, 0.5)], (1.0, 1.0)), steps=0)
    assert float(found.mean()) == pytest.approx(1.33, abs=0.03)
    assert float(found.std()) < 0.03


def codec(center: tuple[float, float], scale: tuple[float, float]) -> Codec:
    made = Codec(CodecConfig(), SPEC)
    made.get_buffer("action_center").copy_(torch.tensor(center))
    made.get_buffer("action_scale").copy_(torch.tensor(scale))
    return made


def test_the_product_of_policies_with_different_normalisers() -> None:
    """Each Gaussian is known in its own normalised units; the product is right in the robot's."""
    one, two = codec((0.5, -1.0), (1.5, 0.8)), codec((-0.3, 2.0), (1.0, 1.1))
    truth: list[tuple[Tensor, Tensor]] = [
        (torch.tensor([0.0, 1.0]).double(), torch.tensor([1.0, 0.4]).double()),
        (torch.tensor([2.0, 0.5]).double(), torch.tensor([0.5, 0.8]).double()),
    ]
    fields = []
    for (mean, deviation), own in zip(truth, (one, two), strict=True):
        scale = own.get_buffer("action_scale")
        fields.append(gaussian((mean - own.get_buffer("action_center")) * scale, deviation * scale))
    translated = renormalised(fields[1], *(v.double() for v in change_of_normaliser(one, two)))
    code = sampled(composed([fields[0], translated], (1.0, 1.0)), steps=20, rows=6_000, size=2)
    found = one.decode_action(code, {"state": torch.zeros(len(code), 1, 1)})[:, 0]
    precision = torch.stack([deviation**-2 for _, deviation in truth])
    mean = (torch.stack([mean for mean, _ in truth]) * precision).sum(0) / precision.sum(0)
    torch.testing.assert_close(found.mean(0), mean, rtol=0.02, atol=0.01)
    torch.testing.assert_close(found.std(0), precision.sum(0) ** -0.5, rtol=0.02, atol=0)


def test_equal_scales_translate_exactly() -> None:
    """The same data in other units: the translated denoiser is the ideal one, at every noise level."""
    scale, shift = torch.full((1,), 2.5).double(), torch.full((1,), -0.7).double()
    translated = renormalised(gaussian(2.5 * 0.4 - 0.7, 2.5 * 0.3), scale, shift)
    x, sigma = normal(5, 4, 1), torch.tensor([0.01, 0.1, 1.0, 10.0, 100.0]).double()
    torch.testing.assert_close(translated(x, sigma), gaussian(0.4, 0.3)(x, sigma))


def test_weights() -> None:
    left, right = gaussian(0.0, 1.0), gaussian(2.0, 0.5)
    x, sigma = normal(3, 4, 2), torch.tensor([0.1, 1.0, 10.0]).double()
    assert composed([left], [1.0]) is left
    assert guided(left, right, 1.0) is left
    assert guided(left, right, 0.0) is right
    mixed = composed([left, right], [0.3, 0.7])(x, sigma)
    torch.testing.assert_close(mixed, 0.3 * left(x, sigma) + 0.7 * right(x, sigma))
    strong = guided(left, right, 2.0)(x, sigma)
    torch.testing.assert_close(strong, 2 * left(x, sigma) - right(x, sigma))

    def never(x: Tensor, sigma: Tensor) -> Tensor:
        raise AssertionError

    assert torch.equal(composed([left, never], [1.0, 0.0])(x, sigma), left(x, sigma))


@pytest.mark.parametrize("weights", [(1.0,), (0.0, 0.0)])
def test_weights_that_do_not_fit_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="weight for each field"):
        composed([gaussian(0.0, 1.0), gaussian(1.0, 1.0)], weights)


def test_codecs_of_another_representation_are_refused() -> None:
    other = Codec(CodecConfig(), SPEC)
    other.config = dataclasses.replace(other.config, rot6d=False)
    with pytest.raises(ConfigError, match="different rot6d do not compose: True and False"):
        change_of_normaliser(Codec(CodecConfig(), SPEC), other)


def test_normalisers_that_differ_wildly_are_refused() -> None:
    with pytest.raises(ConfigError, match="train the policies with one codec"):
        renormalised(gaussian(0.0, 1.0), torch.tensor([0.1, 10.0]), torch.zeros(2))
