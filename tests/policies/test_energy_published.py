from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from robopolicy.codecs import Codec, CodecConfig
from robopolicy.errors import ConfigError, MissingCapability
from robopolicy.learning.checkpoint import load, save_checkpoint
from robopolicy.learning.ema import ema_update, shadow
from robopolicy.networks.mlp import MLP
from robopolicy.networks.unet1d import UNet1D
from robopolicy.policies import energy_published
from robopolicy.policies.energy_published import EnergyPublishedPolicy
from robopolicy.registry import build
from robopolicy.spec import ObservationSpec
from tests.policies.two_modes import (
    HORIZONS,
    SMALL,
    SPEC,
    assert_two_modes,
    learn,
    make,
    observe,
    random_batch,
)

NETWORKS: list[dict[str, Any]] = [
    {"name": "mlp", "width": 32, "blocks": 1, "embedding": 16},
    {"name": "unet1d", "channels": (16, 32), "embedding": 16, "groups": 4},
    {"name": "transformer", "width": 32, "layers": 1, "heads": 2},
    {"name": "dit", "width": 32, "layers": 1, "heads": 2},
]


def published(**changes: Any) -> EnergyPublishedPolicy:
    policy = make("energy_published", **changes)
    assert isinstance(policy, EnergyPublishedPolicy)
    return policy


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.slow
def test_the_published_recipe_averages_modes() -> None:
    """A descent from pure noise with a squared error: the best answer is the mean, 0, and it finds it."""
    sampled = learn(published(), steps=150, count=64)
    assert float(sampled.mean((1, 2)).abs().mean()) < 0.3
    assert float((sampled.abs() - 1).abs().mean()) > 0.6


@pytest.mark.slow
def test_from_noised_demonstrations_it_finds_both_modes() -> None:
    assert_two_modes(learn(published(training="noised_demo"), steps=400))


@pytest.mark.slow
def test_with_infonce_it_finds_both_modes() -> None:
    policy = published(training="infonce", train_steps=[4, 6], negatives=4)
    assert_two_modes(learn(policy, steps=400, count=64))


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n["name"])
@pytest.mark.parametrize("training", ["noise", "noised_demo", "infonce"])
def test_every_network_can_be_an_energy(network: dict[str, Any], training: str) -> None:
    policy = published(network=network, training=training, train_steps=[2, 2])
    loss, logs = policy.loss(random_batch(4), torch.Generator().manual_seed(0))
    loss.backward()
    gradients = [p.grad for p in policy.network.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients)
    assert any(g.abs().max() > 0 for g in gradients)
    assert all(value.isfinite() and not value.requires_grad for value in logs.values())


def test_what_the_chunk_has_no_part_in_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, found = published(train_steps=[4, 4]), {}
    for name, kind in (("shared", MLP), ("anew", UNet1D)):  # what is no MLP goes through the whole network
        monkeypatch.setattr(energy_published, "MLP", kind)
        policy.zero_grad()
        loss, _ = policy.loss(random_batch(4), torch.Generator().manual_seed(0))
        loss.backward()
        gradients = {
            key: value.grad.clone() for key, value in policy.named_parameters() if value.grad is not None
        }
        found[name] = {"loss": loss.detach(), **gradients}
    assert len(found["shared"]) > 10
    torch.testing.assert_close(found["shared"], found["anew"])


def test_a_row_with_its_own_generator_does_not_depend_on_its_batch() -> None:
    policy, seen = published(), observe(4)
    whole = policy.sample(seen, n=3, generator=generators(1, 2, 3, 4))
    swapped = {key: np.concatenate([value[:1], 10 * value[[3, 2, 1]]]) for key, value in seen.items()}
    again = policy.sample(swapped, n=3, generator=generators(1, 7, 8, 9))
    np.testing.assert_array_equal(whole.actions[0], again.actions[0])
    np.testing.assert_array_equal(whole.energy[0], again.energy[0])


def test_given_noise_makes_it_deterministic_in_training_mode_too() -> None:
    policy = published(network={"name": "mlp", "width": 32, "blocks": 1, "dropout": 0.5}).train()
    seen, noise = observe(2), torch.randn(2, 3, *policy.noise_shape)
    first, second = (policy.sample(seen, n=3, noise=noise) for _ in range(2))
    np.testing.assert_array_equal(first.actions, second.actions)
    assert first.energy.shape == (2, 3)
    assert policy.training


def test_frozen_weights_sample_and_the_energy_is_that_of_the_chunk() -> None:
    policy, seen = published().requires_grad_(False), observe(2)
    sample = policy.sample(seen)
    raw = {key: torch.as_tensor(value) for key, value in seen.items()}
    code = policy.codec.encode_action(torch.as_tensor(sample.actions[:, 0]), raw)
    energy = policy.energy(policy.condition(raw))(code)
    np.testing.assert_allclose(sample.energy[:, 0], energy.numpy(), rtol=1e-4, atol=1e-6)
    assert np.abs(sample.actions).max() <= 1


def test_sampling_uses_averaged_weights_for_everything() -> None:
    policy, seen = published(), observe(2)
    average, noise = shadow(policy), torch.randn(2, 1, *policy.noise_shape)
    for parameter in policy.parameters():
        parameter.data.mul_(1.5)
    ema_update(average, policy, 0.5)
    before = average.sample(seen, noise=noise)
    for parameter in policy.parameters():
        parameter.data.zero_()
    after = average.sample(seen, noise=noise)
    np.testing.assert_array_equal(before.actions, after.actions)
    np.testing.assert_array_equal(before.energy, after.energy)


def test_the_number_of_steps_is_drawn_from_the_generator() -> None:
    policy, batch = published(), random_batch(4)
    losses = [policy.loss(batch, torch.Generator().manual_seed(seed))[0].item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_masked_steps_do_not_train() -> None:
    batch = random_batch(4)
    mask = torch.ones(4, 8, dtype=torch.bool)
    mask[:, 5:] = False
    changed = batch.action.clone()
    changed[:, 5:] *= -1
    policy, losses = published(), []
    for action in (batch.action, changed):
        masked = type(batch)(observation=batch.observation, action=action, mask=mask)
        losses.append(policy.loss(masked, torch.Generator().manual_seed(0))[0].item())
    assert losses[0] == losses[1]


def test_it_saves_and_loads(tmp_path: Any) -> None:
    policy, seen = published(train_steps=[2, 3]), observe(2)
    save_checkpoint(tmp_path / "energy", policy)
    noise = torch.randn(2, 1, *policy.noise_shape)
    loaded = load(tmp_path / "energy")
    np.testing.assert_array_equal(
        policy.sample(seen, noise=noise).actions, loaded.sample(seen, noise=noise).actions
    )


def test_the_budget_can_be_changed_and_step_counts_are_reported() -> None:
    policy = published()
    raw = {key: torch.as_tensor(value) for key, value in observe(3).items()}
    noise = torch.randn(3, *policy.noise_shape)
    short, quick = (
        policy.with_sampler({"steps": 7, "tolerance": 0.0}),
        policy.with_sampler({"tolerance": 1e9}),
    )
    assert short.descend(raw, noise).steps.tolist() == [7, 7, 7]
    assert quick.descend(raw, noise).steps.tolist() == [1, 1, 1]
    assert [p.sample(raw).calls for p in (short, quick)] == [7, 1]
    own = short.sample(raw, n=2).own_calls
    assert (tuple(own.shape), own.unique().tolist()) == ((3, 2), [7])
    mixed = policy.with_sampler({"steps": 40, "tolerance": 0.05}).sample(raw, n=8)
    assert mixed.own_calls.min() < mixed.own_calls.max() == mixed.calls
    assert policy.config.sampler.steps == 20
    with pytest.raises(ConfigError, match="descent"):
        policy.with_sampler({"name": "ddim"})


def test_actions_that_are_not_normalised_are_refused() -> None:
    settings = {"name": "energy_published", "network": SMALL, **HORIZONS}
    for normaliser in ("minmax", "quantile", "zscore"):
        codec = Codec(CodecConfig(action=normaliser), SPEC)  # type: ignore[arg-type]
        assert build("policy", settings, spec=SPEC, codec=codec).codec is codec
    with pytest.raises(ConfigError, match=r"codec\.action=minmax, quantile or zscore, not identity"):
        build("policy", settings, spec=SPEC, codec=Codec(CodecConfig(action="identity"), SPEC))


def test_without_a_score_there_is_no_classifier_free_guidance() -> None:
    observations = {**SPEC.observations, "goal/x": ObservationSpec(shape=(2,))}
    goal = dataclasses.replace(SPEC, observations=observations)
    assert make("beso", goal, guidance=2.0).evaluations == 2
    with pytest.raises(ConfigError, match=r"energy_published: Unknown key 'guidance'.*Valid: .*descent"):
        make("energy_published", goal, guidance=2.0)


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(MissingCapability, match="chain"):
        published().sample(observe(2), record=True)
    with pytest.raises(MissingCapability, match="gradient"):
        published().require("gradient")
    with pytest.raises(ConfigError, match="train_steps"):
        published(train_steps=[3, 2])
    with pytest.raises(ConfigError, match="noised_demo"):
        published(training="demo")
    with pytest.raises(ConfigError, match="langevin"):
        published(langevin=[0.2, 0.1])
    with pytest.raises(ConfigError, match="jitter"):
        published(jitter=0.5)
