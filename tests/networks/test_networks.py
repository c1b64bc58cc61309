from __future__ import annotations

import pytest
import torch

from robopolicy.errors import ConfigError
from robopolicy.networks.unet1d import UNet1D, UNet1DConfig
from robopolicy.registry import build

SMALL = [
    {"name": "mlp", "width": 32, "blocks": 2, "embedding": 16},
    {"name": "unet1d", "channels": [16, 32], "embedding": 16},
]


@pytest.mark.parametrize("config", SMALL, ids=lambda c: c["name"])
def test_every_network_uses_all_its_inputs(config: dict[str, object]) -> None:
    torch.manual_seed(0)
    network = build("network", config, action_size=3, horizon=8, obs_horizon=2, condition_size=5)
    x = torch.randn(4, 8, 3, requires_grad=True)
    level = torch.rand(4, requires_grad=True)
    condition = torch.randn(4, 2, 5, requires_grad=True)
    output = network(x, level, condition)
    assert output.shape == x.shape
    output.square().sum().backward()
    for value in (x, level, condition):
        assert value.grad is not None
        assert value.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("config", SMALL, ids=lambda c: c["name"])
def test_rows_are_independent(config: dict[str, object]) -> None:
    network = build("network", config, action_size=3, horizon=8, obs_horizon=2, condition_size=5).eval()
    x, level, condition = torch.randn(4, 8, 3), torch.rand(4), torch.randn(4, 2, 5)
    whole = network(x, level, condition)
    x[1:] += 1
    assert torch.equal(network(x, level, condition)[0], whole[0])


def test_unet_has_the_published_size_on_lift() -> None:
    network = UNet1D(UNet1DConfig(), action_size=10, horizon=16, obs_horizon=2, condition_size=19)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(65.77e6, rel=1e-3)


def test_unet_refuses_horizons_that_do_not_halve() -> None:
    with pytest.raises(ConfigError, match="pred_horizon 10 must be divisible by 4"):
        UNet1D(UNet1DConfig(), action_size=2, horizon=10, obs_horizon=1, condition_size=3)
