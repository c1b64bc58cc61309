from __future__ import annotations

import pytest
import torch

from robopolicy.errors import ConfigError
from robopolicy.networks.unet2d import UNet2D, UNet2DConfig

SMALL = UNet2DConfig(channels=(8, 16), depth=1, attention=(False, True), condition=12)


def test_the_published_size() -> None:
    network = UNet2D(UNet2DConfig(), inputs=15, outputs=3)
    assert 4.2e6 < sum(p.numel() for p in network.parameters()) < 4.5e6


def test_pictures_keep_their_size_and_begin_at_zero() -> None:
    network = UNet2D(SMALL, inputs=5, outputs=3)
    made = network(torch.randn(2, 5, 16, 12), torch.randn(2, 12))
    assert made.shape == (2, 3, 16, 12)
    assert (made == 0).all()


def test_condition_and_every_place_matter() -> None:
    torch.manual_seed(0)
    network = UNet2D(SMALL, inputs=1, outputs=1)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    picture, condition = torch.randn(1, 1, 8, 8), torch.randn(1, 12)
    made = network(picture, condition)
    assert not torch.allclose(made, network(picture, condition + 1))
    corner = picture.clone()
    corner[..., 0, 0] += 1
    assert (network(corner, condition) - made)[..., -1, -1].abs() > 0  # through the attention


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="as many entries of attention"):
        UNet2DConfig(channels=(64, 64))
    with pytest.raises(ConfigError, match=r"multiples of 8, got \[12, 64, 64, 64\]"):
        UNet2DConfig(channels=(12, 64, 64, 64))
