from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from robopolicy.errors import ConfigError
from robopolicy.networks.attention import split_by_decay
from robopolicy.networks.residual import BlockResidual, OutputResidual, blocks
from robopolicy.registry import build

NETWORKS: list[dict[str, Any]] = [
    {"name": "mlp", "width": 16, "blocks": 3, "embedding": 8},
    {"name": "unet1d", "channels": (8, 16), "embedding": 8, "groups": 4},
    {"name": "transformer", "width": 16, "layers": 2, "heads": 2},
    {"name": "dit", "width": 16, "layers": 2, "heads": 2},
]
INPUTS = torch.randn(3, 8, 2), torch.rand(3) * 100
SIZES = (2, 3, 5)


def network(config: dict[str, Any], condition: int) -> nn.Module:
    made = build("network", config, action_size=2, horizon=8, obs_horizon=2, condition_size=condition)
    for parameter in made.parameters():  # so that adaLN-Zero and its like do something
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    assert isinstance(made, nn.Module)
    return made


def joined(config: dict[str, Any]) -> tuple[nn.Module, BlockResidual]:
    torch.manual_seed(0)
    base = network(config, 3).requires_grad_(False)
    return base, BlockResidual(base, network(config, 5), horizon=8, obs_horizon=2, sizes=SIZES)


@pytest.mark.parametrize("config", NETWORKS, ids=lambda n: n["name"])
def test_it_starts_as_the_base_bit_for_bit_and_every_block_can_change_it(config: dict[str, Any]) -> None:
    base, both = joined(config)
    condition = torch.randn(3, 2, 8)
    expected = base(*INPUTS, condition[..., :3])
    assert torch.equal(both(base, *INPUTS, condition), expected)
    for layer in both.zero:
        nn.init.normal_(layer.weight, std=0.1)  # type: ignore[arg-type]
        assert not torch.allclose(both(base, *INPUTS, condition), expected, atol=1e-5)
        nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
    assert torch.equal(base(*INPUTS, condition[..., :3]), expected)


@pytest.mark.parametrize("config", NETWORKS, ids=lambda n: n["name"])
def test_the_zero_layers_move_first_and_then_every_trainable_weight(config: dict[str, Any]) -> None:
    base, both = joined(config)
    condition = torch.randn(3, 2, 8)

    def gradients() -> dict[str, float]:
        both.zero_grad()
        both(base, *INPUTS, condition).square().sum().backward()
        trained = [(name, p) for name, p in both.named_parameters() if p.requires_grad]
        assert all(p.grad is not None for _, p in trained)
        return {name: float(p.grad.abs().max()) for name, p in trained}  # type: ignore[union-attr]

    at_first = gradients()
    assert all((size > 0) == name.startswith("zero.") for name, size in at_first.items())
    for layer in both.zero:
        nn.init.normal_(layer.weight, std=0.1)  # type: ignore[arg-type]
    later = gradients()
    assert all(size > 0 for name, size in later.items() if not name.endswith("key_value.bias"))
    assert all(p.grad is None for p in base.parameters())


@pytest.mark.parametrize("config", NETWORKS, ids=lambda n: n["name"])
@pytest.mark.parametrize("composition", ["blocks", "output"])
def test_weight_decay_does_not_pull_the_zero_layers_back(config: dict[str, Any], composition: str) -> None:
    """While the weights of the residual itself decay as those of any network."""
    both = joined(config)[1] if composition == "blocks" else OutputResidual(network(config, 5), SIZES)
    names = {id(p): name for name, p in both.named_parameters()}
    decayed, spared = ({names[id(p)] for p in group} for group in split_by_decay(both))
    zero = {name for name in names.values() if name.startswith("zero.")}
    assert any(name.endswith("weight") for name in zero)
    assert zero <= spared
    assert decayed
    assert decayed == {names[id(p)] for p in split_by_decay(both.residual)[0]}


def test_in_a_unet_every_level_and_the_middle_are_joined() -> None:
    base, both = joined(NETWORKS[1])
    assert [layer.weight.shape[:2] for layer in both.zero] == [(8, 8), (16, 16), (16, 16), (16, 16), (8, 8)]  # type: ignore[index]
    assert len(blocks(base)) == 5


def test_a_residual_may_be_narrower_but_not_of_another_depth_or_kind() -> None:
    base, narrow = network(NETWORKS[0], 3), network({**NETWORKS[0], "width": 8}, 5)
    both = BlockResidual(base, narrow, horizon=8, obs_horizon=2, sizes=SIZES)
    assert torch.equal(both(base, *INPUTS, torch.zeros(3, 2, 8)), base(*INPUTS, torch.zeros(3, 2, 3)))
    for other in ({**NETWORKS[0], "blocks": 2}, NETWORKS[1], {**NETWORKS[2], "layers": 3}):
        with pytest.raises(ConfigError, match="has 3 blocks"):
            BlockResidual(base, network(other, 5), horizon=8, obs_horizon=2, sizes=SIZES)
    with pytest.raises(ConfigError, match="composition=output"):
        blocks(nn.Linear(2, 2))


def test_the_output_variant_starts_as_the_base_too() -> None:
    torch.manual_seed(0)
    base, residual = network(NETWORKS[2], 3), network(NETWORKS[2], 5)
    both, condition = OutputResidual(residual, SIZES), torch.randn(3, 2, 8)
    expected = base(*INPUTS, condition[..., :3])
    assert torch.equal(both(base, *INPUTS, condition), expected)
    nn.init.eye_(both.zero.weight)  # type: ignore[arg-type]
    assert torch.allclose(both(base, *INPUTS, condition), expected + residual(*INPUTS, condition[..., 3:]))
