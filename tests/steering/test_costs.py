from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from robopolicy.codecs import Codec, CodecConfig
from robopolicy.diffusion.denoiser import Denoiser
from robopolicy.diffusion.energy import Energy
from robopolicy.diffusion.noise import SigmaRange
from robopolicy.errors import ConfigError, MissingCapability
from robopolicy.policies.policy import Policy
from robopolicy.registry import build
from robopolicy.steering.costs import (
    descending,
    obstacle_cost,
    smoothness_cost,
    step_down,
    workspace_cost,
)
from tests.diffusion.gaussians import gaussian, normal
from tests.policies.toys import generators, make, observation
from tests.steering.toys import HELD, wandering

FAR = 1e3


def linear(x: Tensor) -> Tensor:
    """Far from 0 and rising in the first coordinate of every row."""
    return FAR + 7.0 * x[..., 0].sum(1)


def sampled(denoiser: Denoiser, corrector: dict[str, Any], rows: int = 2_000) -> Tensor:
    sampler = build(
        "sampler",
        {"name": "ddim", "steps": 50, "spacing": "exponential", "corrector": corrector},
        train_steps=100,
        schedule=SigmaRange(0.02, 100.0),
    )
    noise = normal(sampler.draws, rows, 1, 2, seed=1) if sampler.draws else None
    return sampler.solve(denoiser, sampler.start(normal(rows, 1, 2)), step_noise=noise)


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_guided_diffusion_of_a_gaussian(weight: float) -> None:
    """N(0, 1) tilted by a cost of constant slope: its mean moves by the weight, its deviation stays."""
    found = sampled(descending(gaussian(0.0, 1.0), [linear], [weight]), {"steps": 0})[:, 0]
    np.testing.assert_allclose(found.mean(0), [-weight, 0.0], atol=0.05 + 0.01 * weight)
    np.testing.assert_allclose(found.std(0), [1.0, 1.0], rtol=0.07)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_temperature_of_stochastic_sampling(temperature: float) -> None:
    """Langevin steps keep the tilted mean; the deviation follows the temperature."""
    corrector = {"steps": 10, "eta": 0.2, "temperature": temperature}
    x = sampled(descending(gaussian(0.0, 1.0), [linear], [1.0]), corrector, rows=1_000)[:, 0]
    np.testing.assert_allclose(x.mean(0), [-1.0, 0.0], atol=0.08)
    low, high = (0.94, 1.06) if temperature == 1.0 else (0.45, 0.8)
    assert (x.std(0) > low).all()
    assert (x.std(0) < high).all()


def test_the_largest_row_moves_by_the_length_whatever_the_slope() -> None:
    """And only as far as the cost falls to 0, where that is nearer."""

    def cost(scale: float) -> Energy:
        return lambda x: scale * (x[:, :, 0] - 1.0).clamp_min(0).sum(1)

    outside = [[1.5, 0.0], [0.0, 0.0], [9.0, 0.0]]
    chunk = torch.tensor([outside, [[0.0, 0.0]] * 3]).double()
    for scale in (1e-3, 1.0, 1e3):
        change = step_down(cost(scale), chunk, torch.tensor([0.25, 0.25]).double())
        torch.testing.assert_close(change[0], torch.tensor([[-0.25, 0], [0, 0], [-0.25, 0]]).double())
        assert (change[1] == 0).all()
        change = step_down(cost(scale), chunk, torch.tensor([100.0, 100.0]).double())
        torch.testing.assert_close(change[0, :, 0], torch.tensor([-4.25, 0, -4.25]).double())


@pytest.mark.parametrize("name", ["obstacle", "workspace", "smoothness"])
def test_small_steps_descend_every_cost(name: str) -> None:
    """By as much as the slope says: the value after a small step against the first order."""
    centres = normal(64, 3, 2, seed=2)
    costs: dict[str, Energy] = {
        "obstacle": lambda x: obstacle_cost(x, centres, 0.8),
        "workspace": lambda x: workspace_cost(x, torch.tensor([-0.5, -1.0]), torch.tensor([0.5, 0.2])),
        "smoothness": lambda x: 2 * smoothness_cost(x),
    }
    cost, chunk = costs[name], normal(64, 6, 2)
    change = step_down(cost, chunk, torch.full((64,), 1e-4).double())
    before, after = cost(chunk), cost(chunk + change)
    assert (after < before)[before > 0].all()
    assert (change[before == 0] == 0).all()
    largest = change.norm(dim=-1).amax(1)[before > 1e-3]
    torch.testing.assert_close(largest, torch.full_like(largest, 1e-4))


def test_costs_of_known_plans() -> None:
    plan = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]]]).double()
    assert float(obstacle_cost(plan, torch.tensor([[[1.0, 0.5]]]).double(), 2.0)) == pytest.approx(
        (2 - 1.25**0.5) + 1.5
    )
    assert float(workspace_cost(plan, torch.tensor([0.5, -1.0]), torch.tensor([2.0, 1.0]))) == 1.5
    assert float(smoothness_cost(plan)) == 1.0


def test_below_the_stopping_level_and_without_weight_nothing_changes() -> None:
    field, x = gaussian(0.0, 1.0), normal(2, 3, 2)
    assert descending(field, [linear], [0.0]) is field
    sigma = torch.tensor([0.1, 1.0]).double()
    stopped, plain = descending(field, [linear], [1.0], stop=0.5)(x, sigma), field(x, sigma)
    assert torch.equal(stopped[0], plain[0])
    torch.testing.assert_close(stopped[1, :, 0], plain[1, :, 0] - 0.5)


@pytest.mark.parametrize("weights", [[1.0, 1.0], [-1.0]])
def test_weights_that_do_not_fit_are_refused(weights: list[float]) -> None:
    with pytest.raises(ConfigError, match="weight >= 0"):
        descending(gaussian(0.0, 1.0), [linear], weights)


def costly(**settings: Any) -> Policy:
    made = build("steer", {"name": "costs", **settings}, policy=wandering())
    assert isinstance(made, Policy)
    return made


def test_the_cost_of_a_plan_falls() -> None:
    """Plans that leave the box are held in it; rows do not depend on their batch."""
    settings = {"workspace": 4.0, "low": (-0.2, -0.2), "high": (0.2, 0.2)}
    seen, box = observation(8, spec=HELD), torch.tensor([0.2, 0.2])
    plain = costly().sample(seen, generator=generators(*range(8))).actions[:, 0, 1:]
    steered = costly(**settings)
    found = steered.sample(seen, generator=generators(*range(8))).actions[:, 0, 1:]
    before, after = (workspace_cost(torch.as_tensor(a), -box, box).mean() for a in (plain, found))
    assert after < 0.5 * before
    alone = steered.sample({k: v[3:4] for k, v in seen.items()}, generator=generators(3)).actions[0, 0, 1:]
    np.testing.assert_allclose(alone, found[3], atol=1e-5)


def test_without_weights_and_corrector_it_is_the_policy() -> None:
    seen = observation(3, spec=HELD)
    made = costly(corrector={"steps": 0}).sample(seen, n=2, generator=generators(1, 2, 3))
    plain = wandering().sample(seen, n=2, generator=generators(1, 2, 3))
    np.testing.assert_array_equal(made.actions, plain.actions)
    corrected = costly()
    assert corrected.sample(seen, generator=generators(1, 2, 3)).calls == 50
    with pytest.raises(MissingCapability, match="noise"):
        corrected.sample(seen, noise=torch.zeros(3, 1, 8, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"obstacle": 1.0}, "an observation"),
        ({"obstacle": 1.0, "obstacles": "stones", "radius": 1.0}, "stones"),
        ({"obstacle": 1.0, "obstacles": "odd", "radius": 1.0}, "no points of 2"),
        ({"workspace": 1.0, "low": (1.0,), "high": (0.0,)}, "low < high"),
        ({"workspace": 1.0, "low": (0.0,), "high": (1.0,)}, "positions 2"),
        ({"smoothness": -1.0}, ">= 0"),
    ],
)
def test_costs_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        costly(**settings)


@pytest.mark.parametrize("name", ["gaussian", "energy_published"])
def test_a_policy_without_a_field_is_refused(name: str) -> None:
    with pytest.raises(MissingCapability, match=r"no denoiser.*energy_denoising"):
        build("steer", {"name": "costs"}, policy=make(name, spec=HELD))


def test_a_codec_of_another_scale_costs_the_same() -> None:
    """Costs are of positions in the robot's units, whatever the codec."""
    codec = Codec(CodecConfig(), HELD)
    codec.get_buffer("action_scale").fill_(4.0)
    policy = wandering()
    policy.codec = codec
    made = build(
        "steer", {"name": "costs", "workspace": 8.0, "low": (-0.1, -0.1), "high": (0.1, 0.1)}, policy=policy
    )
    seen = {key: torch.as_tensor(value) for key, value in observation(4, spec=HELD).items()}
    clean, sigma = 2 * torch.randn(4, 8, 2), torch.full((4,), 3.0)
    field = made.bend(lambda x, sigma: clean, seen, 1)
    box = torch.tensor([0.1, 0.1])

    def cost(code: Tensor) -> float:
        return float(workspace_cost(codec.decode_action(code, seen)[:, 1:], -box, box).sum())

    assert cost(field(clean, sigma)) < 0.5 * cost(clean)
