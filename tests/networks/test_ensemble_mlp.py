from __future__ import annotations

import torch

from robopolicy.networks.ensemble_mlp import EnsembleMLP


def test_members_are_networks_of_their_own() -> None:
    torch.manual_seed(0)
    network = EnsembleMLP(3, 4, 5, width=8, blocks=2, embedding=8)
    x, level, condition = torch.randn(3, 6, 4), torch.rand(18), torch.randn(3, 6, 5)
    assert (network(x, level, network.context(condition)) == 0).all()
    for parameter in network.outlet.parameters():
        torch.nn.init.normal_(parameter)
    before = network(x, level, network.context(condition))
    with torch.no_grad():
        network.inlet.weight[1] += 1
    after = network(x, level, network.context(condition))
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.allclose(before[1], after[1])


def test_one_level_serves_all_rows() -> None:
    torch.manual_seed(0)
    network = EnsembleMLP(2, 4, 5, width=8, blocks=1, embedding=8)
    for parameter in network.outlet.parameters():
        torch.nn.init.normal_(parameter)
    x, context = torch.randn(2, 3, 4), network.context(torch.randn(3, 5))
    one = network(x, torch.tensor([7.0]), context)
    each = network(x, torch.full((6,), 7.0), context)
    assert torch.allclose(one, each, atol=1e-6)
