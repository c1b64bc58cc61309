from __future__ import annotations

import pytest
import torch
from torch import nn

from robopolicy.learning.ema import EMAConfig, ema_decay, ema_update, shadow


def test_decay_follows_the_reference() -> None:
    config = EMAConfig()
    found = [round(ema_decay(config, update), 3) for update in range(5)]
    assert found == [0.0, 0.0, 0.405, 0.561, 0.646]
    assert ema_decay(config, 10_000) == pytest.approx(0.9990, abs=1e-4)
    assert ema_decay(config, 10**7) == 0.9999


def test_update_averages_trained_parameters_and_copies_the_rest() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    module[0].bias.requires_grad_(False)
    average = shadow(module)
    before = {k: v.clone() for k, v in average.state_dict().items()}
    with torch.no_grad():
        for value in module.state_dict().values():
            value.add_(1)
    ema_update(average, module, 0.75)
    assert torch.allclose(average[0].weight, before["0.weight"] + 0.25)
    assert torch.allclose(average[0].bias, before["0.bias"] + 1)
    assert torch.allclose(average[1].running_mean, before["1.running_mean"] + 1)
