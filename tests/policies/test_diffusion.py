from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from robopolicy.codecs import Codec, CodecConfig
from robopolicy.data.windows import Batch
from robopolicy.errors import ConfigError, MissingCapability
from robopolicy.policies.diffusion import DiffusionPolicy
from robopolicy.registry import build
from robopolicy.spec import ActionSpec, ObservationSpec, Spec

SPEC = Spec(
    observations={"state": ObservationSpec(shape=(3,)), "goal": ObservationSpec(shape=(2,))},
    action=ActionSpec(names=("x", "y"), low=(-1.0, -1.0), high=(1.0, 1.0)),
    control_hz=10,
)
SMALL = {"name": "mlp", "width": 64, "blocks": 2, "embedding": 16}


def make_policy(**changes: Any) -> DiffusionPolicy:
    torch.manual_seed(0)
    config = {"name": "diffusion", "network": SMALL, "pred_horizon": 8, "action_horizon": 4, **changes}
    policy = build("policy", config, spec=SPEC, codec=Codec(CodecConfig(), SPEC))
    assert isinstance(policy, DiffusionPolicy)
    return policy


def observation(batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "state": rng.normal(size=(batch, 2, 3)).astype(np.float32),
        "goal": rng.normal(size=(batch, 2, 2)).astype(np.float32),
    }


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("sampler", [{"name": "ddim", "steps": 4}, {"name": "ddpm", "steps": 10}])
@pytest.mark.parametrize("n", [1, 3])
def test_a_row_with_its_own_generator_does_not_depend_on_its_batch(sampler: dict[str, Any], n: int) -> None:
    policy, seen = make_policy(sampler=sampler), observation(4)
    whole = policy.sample(seen, n=n, generator=generators(1, 2, 3, 4)).actions
    swapped = {key: value[[0, 3, 2, 1]] for key, value in seen.items()}
    again = policy.sample(swapped, n=n, generator=generators(1, 4, 3, 2)).actions
    assert whole.shape == (4, n, 8, 2)
    np.testing.assert_array_equal(whole[[0, 3, 2, 1]], again)


def test_given_noise_selects_the_deterministic_path() -> None:
    policy, seen = make_policy(sampler={"name": "ddpm", "steps": 10}), observation(2)
    noise = torch.randn(2, 5, *policy.noise_shape)
    first = policy.sample(seen, n=5, noise=noise)
    second = policy.sample(seen, n=5, noise=noise)
    np.testing.assert_array_equal(first.actions, second.actions)
    np.testing.assert_array_equal(first.latent, noise.numpy())
    with pytest.raises(ConfigError, match="noise must be"):
        policy.sample(seen, n=5, noise=noise[:, :4])


@pytest.mark.parametrize(
    "sampler", [{"name": "ddpm", "steps": 5}, {"name": "ddim", "steps": 5, "eta": 0.5}], ids=["ddpm", "ddim"]
)
def test_a_recorded_chain_starts_at_the_noise_and_ends_at_the_chunk(sampler: dict[str, Any]) -> None:
    policy, seen = make_policy(sampler=sampler), observation(2)
    sample = policy.sample(seen, n=3, generator=torch.Generator().manual_seed(0), record=True)
    assert sample.chain.shape == (6, 2, 3, 8, 2)
    start = policy.sampler.start(torch.as_tensor(sample.latent))
    np.testing.assert_array_equal(sample.chain[0], start.numpy())
    rows = {key: torch.as_tensor(value).repeat_interleave(3, 0) for key, value in seen.items()}
    decoded = policy.codec.decode_action(torch.as_tensor(sample.chain[-1]).flatten(0, 1), rows)
    np.testing.assert_array_equal(decoded.view(2, 3, 8, 2).numpy(), sample.actions)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_a_chain_of_ddim_is_the_walk_that_its_generators_drew(eta: float) -> None:
    """Every state by DDIM's equation 12 from the one before, in its variance-preserving form."""
    policy = make_policy(sampler={"name": "ddim", "steps": 5, "eta": eta}, clip=False)
    seen = {key: torch.as_tensor(value) for key, value in observation(2).items()}
    sample = policy.sample(seen, n=3, generator=generators(1, 2), record=True)
    redrawn = generators(1, 2)
    latent = torch.stack([torch.randn(3, 8, 2, generator=g) for g in redrawn])
    noise = torch.stack([torch.randn(5, 3, 8, 2, generator=g) for g in redrawn], 1)
    assert torch.equal(sample.latent, latent)
    assert torch.equal(sample.chain[0], policy.sampler.start(latent))
    abar = 1 / (1 + policy.sampler.sigmas.float() ** 2)
    assert len(sample.chain) == 6 == len(abar)
    with torch.no_grad():
        field = policy.field(seen, 3)
        for k in range(5):
            here, after = abar[k], abar[k + 1]
            x = sample.chain[k].flatten(0, 1)
            clean = field(x, ((1 - here) / here).sqrt().expand(6))
            spread = eta * ((1 - after) / (1 - here) * (1 - here / after)).sqrt()
            direction = (x * here.sqrt() - here.sqrt() * clean) / (1 - here).sqrt()
            moved = after.sqrt() * clean + (1 - after - spread**2).sqrt() * direction
            expected = (moved + spread * noise[k].flatten(0, 1)) / after.sqrt()
            torch.testing.assert_close(sample.chain[k + 1].flatten(0, 1), expected, rtol=1e-3, atol=1e-3)


def test_recording_a_chain_changes_nothing_and_the_noise_of_its_steps_matters() -> None:
    policy, seen = make_policy(sampler={"name": "ddim", "steps": 5, "eta": 0.5}), observation(2)
    recorded = policy.sample(seen, generator=generators(1, 2), record=True)
    plain = policy.sample(seen, generator=generators(1, 2))
    np.testing.assert_array_equal(recorded.actions, plain.actions)
    still = policy.sample(seen, noise=recorded.latent)
    assert np.abs(still.actions - plain.actions).max() > 0.01
    with pytest.raises(ConfigError, match="eta > 0"):
        policy.sample(seen, noise=recorded.latent, record=True)  # without that noise there is no density


def test_a_deterministic_sampler_has_no_chain() -> None:
    with pytest.raises(ConfigError, match="eta > 0"):
        make_policy(sampler={"name": "ddim", "steps": 4}).sample(observation(2), record=True)


def test_answers_in_kind() -> None:
    policy, seen = make_policy(), observation(2)
    assert isinstance(policy.sample(seen).actions, np.ndarray)
    tensors = {key: torch.as_tensor(value) for key, value in seen.items()}
    assert isinstance(policy.sample(tensors).actions, torch.Tensor)


def test_sampling_leaves_the_mode_and_uses_none_of_the_dropout() -> None:
    policy = make_policy(network={**SMALL, "dropout": 0.5}).train()
    seen, noise = observation(2), torch.zeros(2, 1, 8, 2)
    first = policy.sample(seen, noise=noise).actions
    np.testing.assert_array_equal(first, policy.sample(seen, noise=noise).actions)
    assert policy.training


@pytest.mark.parametrize(
    "prediction",
    ["sample", *(pytest.param(name, marks=pytest.mark.slow) for name in ("epsilon", "velocity"))],
)
def test_learns_two_modes_and_never_their_average(prediction: str) -> None:
    """The simplest multimodal task: from the same observation go left or right, never straight."""
    policy = make_policy(prediction=prediction, sampler={"name": "ddim", "steps": 20})
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=2e-3)
    seen = {key: torch.zeros(256, *value.shape[1:]) for key, value in observation(1).items()}
    for _ in range(400):
        side = torch.where(torch.rand(256, 1, 1, generator=generator) < 0.5, -1.0, 1.0)
        batch = Batch(observation=seen, action=side.expand(256, 8, 2), mask=None, episode=torch.zeros(256))
        loss, _ = policy.loss(batch, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    sampled = policy.sample(seen, generator=generator).actions[:, 0]
    assert float((sampled.abs() - 1).abs().mean()) < 0.15
    assert 0.3 < float((sampled[:, 0, 0] > 0).float().mean()) < 0.7
    assert float((sampled.sign() == sampled[:, :1, :1].sign()).float().mean()) > 0.97


def test_masked_steps_do_not_train() -> None:
    policy = make_policy()
    seen = {key: torch.as_tensor(value) for key, value in observation(4).items()}
    mask = torch.ones(4, 8, dtype=torch.bool)
    mask[:, 5:] = False
    actions = torch.randn(4, 8, 2)
    changed = actions.clone()

    def gradient_of_output(action: torch.Tensor) -> torch.Tensor:
        batch = Batch(observation=seen, action=action, mask=mask, episode=torch.zeros(4))
        return policy.loss(batch, torch.Generator().manual_seed(0))[0]

    policy.network.outlet[1].weight.data.zero_()  # the output no longer depends on the masked input
    changed[:, 5:] += 10
    assert torch.equal(gradient_of_output(actions), gradient_of_output(changed))


@pytest.mark.usefixtures("rounding")
def test_bfloat16_stays_close_to_float32() -> None:
    seen, noise = observation(8), torch.randn(8, 1, 8, 2)
    exact = make_policy().sample(seen, noise=noise).actions
    rounded = make_policy(precision="bfloat16").sample(seen, noise=noise).actions
    assert rounded.dtype == np.float32
    assert 0 < np.abs(exact - rounded).max() < 0.1


def test_horizons_that_do_not_fit_are_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigError, match="at least 9"):
        make_policy(pred_horizon=8, action_horizon=8)


def test_wrong_observations_are_named() -> None:
    policy, seen = make_policy(), observation(2)
    with pytest.raises(ConfigError, match="'goal'"):
        policy.sample({"state": seen["state"]})
    with pytest.raises(ConfigError, match=r"'state' must be \[B, 2, 3\]"):
        policy.sample({**seen, "state": seen["state"][:, :1]})
    with pytest.raises(ConfigError, match="3 generators for 2 rows"):
        policy.sample(seen, generator=generators(1, 2, 3))


def test_missing_capabilities_are_refused_by_name() -> None:
    with pytest.raises(MissingCapability, match="energy"):
        make_policy().require("noise", "energy")


def test_unknown_settings_list_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match="pred_horizon"):
        make_policy(prediction_horizon=8)
    with pytest.raises(ConfigError, match="ddim, ddpm"):
        make_policy(sampler={"name": "dimm"})
    with pytest.raises(ConfigError, match=r"mlp, .*unet1d"):
        make_policy(network={"name": "unet"})
