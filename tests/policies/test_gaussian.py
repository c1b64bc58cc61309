from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from robopolicy.data.windows import Batch
from robopolicy.errors import ConfigError
from robopolicy.policies.gaussian import GaussianPolicy, log_density
from robopolicy.policies.gmm import GMMPolicy
from tests.policies.toys import learn_two_modes, make, observation

SMALL = {"width": 64, "blocks": 2}


def gaussian(**settings: Any) -> GaussianPolicy:
    policy = make("gaussian", **{**SMALL, **settings})
    assert isinstance(policy, GaussianPolicy)
    return policy


def gmm(**settings: Any) -> GMMPolicy:
    policy = make("gmm", **{**SMALL, **settings})
    assert isinstance(policy, GMMPolicy)
    return policy


def outlet(policy: GaussianPolicy | GMMPolicy) -> torch.nn.Linear:
    layer = list(policy.network.outlet.children())[-1]
    assert isinstance(layer, torch.nn.Linear)
    return layer


def tensors(batch: int) -> dict[str, torch.Tensor]:
    return {key: torch.as_tensor(value) for key, value in observation(batch).items()}


def test_moments_are_those_of_samples() -> None:
    policy, seen = gaussian(), observation(1)
    mean, log_std = policy.moments(policy.condition(tensors(1)))
    assert mean.shape == log_std.shape == (1, 8, 2)
    drawn = policy.sample(seen, n=20_000, generator=torch.Generator().manual_seed(0)).actions[0]
    np.testing.assert_allclose(drawn.mean(0), mean[0].detach(), atol=0.01)
    np.testing.assert_allclose(drawn.std(0), log_std[0].exp().detach(), rtol=0.03)


def test_log_prob_is_torchs() -> None:
    policy, seen = gaussian(), observation(2)
    sample = policy.sample(seen, n=3, generator=torch.Generator().manual_seed(0))
    mean, log_std = policy.moments(policy.condition(tensors(2)))
    normal = torch.distributions.Normal(mean[:, None], log_std.exp()[:, None])
    expected = normal.log_prob(torch.as_tensor(sample.actions)).sum((2, 3))
    np.testing.assert_allclose(np.asarray(sample.log_prob), expected.detach(), rtol=1e-4)


def test_the_deviation_keeps_its_bounds() -> None:
    policy = gaussian(min_std=0.05, max_std=0.2)
    for bias in (-100.0, 100.0):
        outlet(policy).bias.data[:] = bias
        _, log_std = policy.moments(policy.condition(tensors(2)))
        torch.testing.assert_close(log_std.exp(), torch.full_like(log_std, 0.05 if bias < 0 else 0.2))


def test_a_gaussian_learns_the_mean_of_two_modes() -> None:
    """What makes it a baseline: between left and right it goes straight, and knows how little that says."""
    policy = gaussian()
    sampled = learn_two_modes(policy)
    assert abs(float(sampled.mean())) < 0.15
    assert float(sampled.std()) == pytest.approx(1.0, abs=0.1)  # of +-1
    seen = {key: torch.zeros(1, 2, 3) for key in ("state", "goal/state")}
    mean, _ = policy.moments(policy.condition(seen))
    assert float(mean.detach().abs().max()) < 0.25


def test_masked_steps_do_not_train() -> None:
    mask = torch.ones(4, 8, dtype=torch.bool)
    mask[:, 5:] = False
    action = torch.randn(4, 8, 2)
    changed = action.clone()
    changed[:, 5:] += 10
    for policy in (gaussian(), gmm()):
        losses = [
            policy.loss(Batch(observation=tensors(4), action=a, mask=mask), torch.Generator())[0]
            for a in (action, changed)
        ]
        assert torch.equal(*losses)


def test_the_mixtures_density_is_torchs() -> None:
    policy = gmm(low_noise=False, modes=3)
    seen = tensors(2)
    weight, mean, log_std = policy.mixture(policy.condition(seen))
    normal = torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 2)
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=weight), normal)
    sample = policy.sample(observation(2), n=4, generator=torch.Generator().manual_seed(0))
    expected = mixture.log_prob(torch.as_tensor(sample.actions).transpose(0, 1)).T
    np.testing.assert_allclose(np.asarray(sample.log_prob), expected.detach(), rtol=1e-4)
    action = torch.randn(2, 8, 2)
    loss, _ = policy.loss(Batch(observation=seen, action=action), torch.Generator())
    torch.testing.assert_close(loss, -mixture.log_prob(action).mean() / 16)


def test_modes_are_drawn_by_their_weights() -> None:
    policy = gmm(modes=3)
    outlet(policy).weight.data[:3] = 0
    outlet(policy).bias.data[:3] = torch.tensor([0.6, 0.1, 0.3]).log()
    seen = observation(1)
    with torch.no_grad():
        _, mean, log_std = policy.mixture(policy.condition(tensors(1)))
    sample = policy.sample(seen, n=4_000, generator=torch.Generator().manual_seed(0))
    drawn = torch.as_tensor(sample.actions[0])
    distance = (drawn[:, None] - mean).abs().sum((2, 3))
    assert float(distance.min(1).values.max()) < 1e-4  # low noise: a mode's mean
    shares = torch.bincount(distance.argmin(1), minlength=3) / len(drawn)
    torch.testing.assert_close(shares, torch.tensor([0.6, 0.1, 0.3]), atol=0.03, rtol=0)
    likeliest = policy.sample(seen, n=5, noise=torch.randn(1, 5, 8, 2)).actions[0]
    np.testing.assert_allclose(likeliest, mean[:, 0].expand(5, -1, -1).detach(), atol=1e-5)
    assert log_density(torch.zeros(1), torch.zeros(1), torch.zeros(1)).item() == pytest.approx(-0.9189385)
    assert (log_std.exp() >= 0.01).all()


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="min_std < max_std"):
        gaussian(min_std=2.0)
    with pytest.raises(ConfigError, match="modes >= 1"):
        gmm(modes=0)
