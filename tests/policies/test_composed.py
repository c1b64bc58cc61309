from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from robopolicy.codecs import Codec, CodecConfig
from robopolicy.data.windows import Batch
from robopolicy.errors import ConfigError, MissingCapability, SpecMismatch
from robopolicy.policies.composed import ComposedPolicy
from robopolicy.policies.denoising import DenoisingPolicy
from robopolicy.registry import build
from robopolicy.spec import ActionSpec, ObservationSpec, Spec
from tests.policies.toys import NETWORK, SPEC, generators, make, observation

STATE = SPEC.select(["state"])
CAMERA = Spec(observations={"marker": ObservationSpec(shape=(4,))}, action=SPEC.action, control_hz=10)
NONE = {"corrector": {"steps": 0}}


def diffusion(spec: Spec = STATE, **settings: Any) -> DenoisingPolicy:
    policy = make("diffusion", spec=spec, network=NETWORK, **settings)
    assert isinstance(policy, DenoisingPolicy)
    return policy


def test_one_policy_of_weight_1_is_itself() -> None:
    policy, seen = diffusion(clip=False), observation(3, spec=STATE)
    composed = ComposedPolicy([policy], [1.0], sampler=NONE)
    np.testing.assert_array_equal(
        composed.sample(seen, n=2, generator=generators(1, 2, 3)).actions,
        policy.sample(seen, n=2, generator=generators(1, 2, 3)).actions,
    )


def test_equal_policies_and_weights_that_sum_to_1_are_the_policy() -> None:
    policy, seen = diffusion(clip=False), observation(3, spec=STATE)
    composed = ComposedPolicy([policy, policy], [0.3, 0.7], sampler=NONE)
    made = composed.sample(seen, generator=generators(1, 2, 3))
    expected = policy.sample(seen, generator=generators(1, 2, 3))
    np.testing.assert_allclose(made.actions, expected.actions, atol=1e-5)
    assert made.calls == 2 * expected.calls


def test_it_observes_what_any_observes_and_corrects_by_default() -> None:
    composed = ComposedPolicy([diffusion(), diffusion(CAMERA)], [1.0, 1.0])
    assert set(composed.spec.observations) == {"state", "marker"}
    sample = composed.sample(observation(4, spec=composed.spec), generator=generators(1, 2, 3, 4))
    assert sample.actions.shape == (4, 1, 8, 2)
    assert sample.calls == 2 * 10 * (1 + composed.sampler.corrector.steps) > 20
    with pytest.raises(MissingCapability, match="noise"):
        composed.sample(observation(4, spec=composed.spec), noise=torch.zeros(4, 1, 8, 2))


def test_a_row_does_not_depend_on_its_batch() -> None:
    """Langevin steps included, which the generators of each row draw."""
    composed = ComposedPolicy([diffusion(), diffusion(CAMERA)], [1.0, 1.0])
    seen = observation(3, spec=composed.spec)
    whole = composed.sample(seen, n=2, generator=generators(1, 2, 3)).actions
    swapped = {key: np.concatenate([value[:1], 10 * value[[2, 1]]]) for key, value in seen.items()}
    again = composed.sample(swapped, n=2, generator=generators(1, 5, 6)).actions
    np.testing.assert_array_equal(whole[0], again[0])
    assert np.abs(whole[1:] - again[1:]).max() > 0.01


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["diffusion first", "energy first"])
def test_an_energy_that_denoises_is_added_as_any_field(order: tuple[int, int]) -> None:
    pair = [diffusion(), make("energy_denoising", spec=STATE, network=NETWORK)]
    policies, weights = [pair[i] for i in order], [(0.3, 0.7)[i] for i in order]
    seen = {key: torch.as_tensor(value) for key, value in observation(3, spec=STATE).items()}
    x, sigma = torch.randn(3, 8, 2), torch.tensor([0.1, 1.0, 10.0])
    one, other = (policy.field(seen)(x, sigma).detach() for policy in pair)
    assert (one - other).abs().max() > 0.1
    composed = ComposedPolicy(policies, weights)
    torch.testing.assert_close(composed.field(seen)(x, sigma).detach(), 0.3 * one + 0.7 * other)
    whole = composed.sample(seen, generator=generators(1, 2, 3))
    assert whole.calls == 2 * composed.sampler.calls()
    alone = composed.sample({key: value[:1] for key, value in seen.items()}, generator=generators(1))
    torch.testing.assert_close(whole.actions[:1], alone.actions)


@pytest.mark.parametrize("name", ["gaussian", "gmm", "energy_published"])
def test_what_has_no_field_is_refused_by_name_and_told_what_would_do(name: str) -> None:
    """The published energy knows no noise level: its slope is no score."""
    denoising, other = diffusion(), make(name, spec=STATE)
    message = rf"{type(other).__name__} has no field to add.*energy_denoising"
    for policies in ([denoising, other], [other, denoising]):
        with pytest.raises(MissingCapability, match=message):
            ComposedPolicy(policies, [0.5, 0.5])


def test_other_units_change_nothing() -> None:
    """The same policy behind a codec of another scale: its field is translated, its actions are equal."""

    def scaled(center: float, scale: float) -> DenoisingPolicy:
        torch.manual_seed(0)
        config = {"name": "diffusion", "network": NETWORK, "pred_horizon": 8, "action_horizon": 4}
        codec = Codec(CodecConfig(), STATE)
        codec.get_buffer("action_center").fill_(center)
        codec.get_buffer("action_scale").fill_(scale)
        policy = build("policy", {**config, "clip": False}, spec=STATE, codec=codec)
        assert isinstance(policy, DenoisingPolicy)
        return policy

    plain, other, seen = scaled(0.0, 1.0), scaled(0.2, 1.5), observation(2, spec=STATE)
    composed = ComposedPolicy([plain, other], [0.0, 1.0], sampler=NONE)
    found = composed.sample(seen, generator=generators(1, 2)).actions
    # Its own start is 1.5 times as noisy in its code as the composition's: started from the same chunk.
    field = other.field({key: torch.as_tensor(value) for key, value in seen.items()})
    noise = torch.cat([torch.randn(1, 8, 2, generator=g) for g in generators(1, 2)])
    x = 1.5 * (plain.sampler.start(noise) - 0.2)
    sigmas = 1.5 * plain.sampler.sigmas
    with torch.no_grad():
        for sigma, following in itertools.pairwise(sigmas.tolist()):
            clean = field(x, x.new_full((2,), sigma))
            x = torch.lerp(clean, x, following / sigma)
    np.testing.assert_allclose(found[:, 0], x / 1.5 + 0.2, atol=1e-4)


def learned(mean: list[float], deviation: list[float], normaliser: str, unit: float) -> DenoisingPolicy:
    """What single actions from N(mean, deviation^2) teach, in codes of deviation `unit`."""
    spec = dataclasses.replace(STATE, observations={"state": ObservationSpec(shape=(1,))})
    generator = torch.Generator().manual_seed(1)
    data = torch.randn(20_000, 1, 2, generator=generator) * torch.tensor(deviation) + torch.tensor(mean)
    blank, codec = torch.zeros(512, 1, 1), Codec(CodecConfig(action=normaliser), spec)
    codec.fit([({"state": torch.zeros(len(data), 1, 1)}, data)])
    torch.manual_seed(0)
    config = {
        "name": "beso",
        "sigma_low": 0.02,
        "deviation": unit,
        **dict.fromkeys(("obs_horizon", "pred_horizon", "action_horizon"), 1),
        "network": {"name": "mlp", "width": 32, "blocks": 1, "embedding": 16},
        "sampler": {"name": "ddim", "steps": 30, "spacing": "exponential"},
    }
    policy = build("policy", config, spec=spec, codec=codec)
    optimizer = torch.optim.AdamW(policy.parameters(), 5e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    for _ in range(300):
        drawn = data[torch.randint(len(data), (len(blank),), generator=generator)]
        loss, _ = policy.loss(Batch(observation={"state": blank}, action=drawn), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    assert isinstance(policy, DenoisingPolicy)
    return policy


@pytest.mark.slow
def test_gaussians_learned_behind_different_normalisers_compose_to_the_closed_form() -> None:
    """N(m, s^2) to the power of w each: precisions w / s^2 add up, means are weighted with them."""
    means, deviations = [[0.0, 1.0], [2.0, 0.5]], [[1.0, 0.5], [0.6, 0.8]]
    policies = [
        learned(means[0], deviations[0], "zscore", 1.0),
        learned(means[1], deviations[1], "quantile", 0.43),  # 98% of a Gaussian are within 2.33 of it
    ]
    scales = [policy.codec.get_buffer("action_scale") for policy in policies]
    assert ((scales[1] / scales[0]).log().abs() > 0.3).all()
    seen = {"state": torch.zeros(2_000, 1, 1)}
    for weights in ((1.0, 1.0), (0.5, 0.5)):  # the product, the geometric mean
        composed = ComposedPolicy(policies, weights, sampler={"corrector": {"steps": 10, "eta": 0.2}})
        found = composed.sample(seen, generator=torch.Generator().manual_seed(0)).actions[:, 0, 0]
        shares = torch.tensor(weights)[:, None] / torch.tensor(deviations) ** 2
        precision = shares.sum(0)
        expected = (shares * torch.tensor(means)).sum(0) / precision
        torch.testing.assert_close(found.mean(0), expected, rtol=0, atol=0.08)
        torch.testing.assert_close(found.std(0), precision**-0.5, rtol=0.1, atol=0)


def test_what_cannot_be_added_is_refused_with_every_difference() -> None:
    first = diffusion()
    names = ActionSpec(names=("x", "z"), low=(-1.0, -1.0), high=(1.0, 1.0))
    other = diffusion(dataclasses.replace(STATE, action=names), action_horizon=3)
    with pytest.raises(SpecMismatch, match=r"(?s)action: names.*action_horizon: 4 and 3"):
        ComposedPolicy([first, other], [1.0, 1.0])
    wide = dataclasses.replace(STATE, observations={"state": ObservationSpec(shape=(5,))})
    with pytest.raises(SpecMismatch, match=r"'state': shape"):
        ComposedPolicy([first, diffusion(wide)], [1.0, 1.0])
    beso = make("beso", spec=STATE, network=NETWORK, sigma_high=1.0)
    assert isinstance(beso, DenoisingPolicy)
    with pytest.raises(SpecMismatch, match="noise: sampling starts at"):
        ComposedPolicy([first, beso], [1.0, 1.0])
    with pytest.raises(ConfigError, match="a weight for each"):
        ComposedPolicy([first], [1.0, 1.0])


def test_another_sampler_for_the_same_weights() -> None:
    policy, seen = diffusion(), observation(2, spec=STATE)
    noise = torch.randn(2, 1, 8, 2)
    fast = policy.with_sampler({"name": "dpm", "steps": 3})
    assert (policy.sample(seen, noise=noise).calls, fast.sample(seen, noise=noise).calls) == (10, 3)
    assert next(fast.parameters()) is next(policy.parameters())
    assert fast.config.sampler == {"name": "dpm", "steps": 3}
    assert policy.config.sampler == {"name": "ddim", "steps": 10}
    changed = policy.with_sampler({"steps": 5})
    assert (type(changed.sampler), changed.sampler.steps) == (type(policy.sampler), 5)
    same = fast.with_sampler({"name": "ddim", "steps": 10})
    np.testing.assert_array_equal(
        same.sample(seen, noise=noise).actions, policy.sample(seen, noise=noise).actions
    )
    with pytest.raises(ConfigError, match="'step'"):
        policy.with_sampler({"step": 3})
