from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from robopolicy.benchmark.refinement import SIZES, Straightforward, _refiner, _with_torchs_mish


@pytest.mark.parametrize("plain", [False, True])
def test_the_straightforward_form_makes_the_same_update(plain: bool) -> None:
    network, config = SIZES["small"]
    config = dataclasses.replace(config, chunks=3, batch_size=10_000)
    ours, other = _refiner(network, config, "cpu"), _refiner(network, config, "cpu")
    if plain:
        assert any(isinstance(module, nn.Mish) for module in _with_torchs_mish(other).actor.modules())
    rollout, _ = ours.practise()
    before = [p.clone() for p in ours.actor.parameters()]
    ours.update(rollout)
    Straightforward(other).update(rollout)
    for old, a, b in zip(before, ours.actor.parameters(), other.actor.parameters(), strict=True):
        moved = (a - old).detach()
        assert float(moved.abs().max()) > 0
        close = torch.isclose(moved, (b - old).detach(), rtol=0.05, atol=1e-6)
        assert (
            float(close.float().mean()) > 0.98
        )  # Adam's first step is a sign: tiny gradients may differ in it
