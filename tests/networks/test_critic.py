from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from robopolicy.networks.critic import CriticEnsemble, EnsembleLinear, EnsembleNorm, SquashedGaussian


def test_an_ensemble_is_its_members_one_by_one() -> None:
    torch.manual_seed(0)
    critic = CriticEnsemble(3, 5, (8, 6), layer_norm=True).double()
    state, action = torch.randn(7, 3).double(), torch.randn(7, 2).double()
    expected = []
    for member in range(3):
        x = torch.cat([state, action], -1)
        for layer in critic.layers:
            if isinstance(layer, EnsembleLinear):
                x = x @ layer.weight[member] + layer.bias[member]
            elif isinstance(layer, EnsembleNorm):
                x = F.layer_norm(x, x.shape[-1:], layer.gain[member, 0], layer.shift[member, 0])
            else:
                x = x.relu()
        expected.append(x.squeeze(-1))
    torch.testing.assert_close(critic(state, action), torch.stack(expected))


def test_members_start_apart_and_are_as_wide_as_linear_layers() -> None:
    torch.manual_seed(0)
    layer = EnsembleLinear(4, 100, 50)
    assert not torch.equal(layer.weight[0], layer.weight[1])
    assert 0.09 < float(layer.weight.detach().abs().max()) <= 0.1


def test_the_density_is_that_of_a_squashed_gaussian() -> None:
    torch.manual_seed(0)
    actor = SquashedGaussian(4, 3, (16,)).double()
    state, noise = torch.randn(9, 4).double(), torch.randn(9, 3).double()
    action, log_prob = actor.sample(state, noise)
    mean, log_std = actor(state)
    reference = TransformedDistribution(Independent(Normal(mean, log_std.exp()), 1), [TanhTransform()])
    torch.testing.assert_close(log_prob, reference.log_prob(action), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(actor.log_prob(state, action), log_prob, rtol=1e-6, atol=1e-6)


def test_the_density_of_an_action_at_its_bound_is_finite() -> None:
    actor = SquashedGaussian(4, 3, (16,))
    assert torch.isfinite(actor.log_prob(torch.zeros(2, 4), torch.tensor([[1.0, -1.0, 0.0]] * 2))).all()


def test_a_zero_final_layer_starts_at_the_mean_zero() -> None:
    actor = SquashedGaussian(4, 3, (16,), initial_log_std=-1.0, final_scale=0.0)
    mean, log_std = actor(torch.randn(5, 4))
    assert (mean == 0).all()
    assert (log_std == -1).all()
