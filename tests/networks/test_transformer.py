from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from robopolicy.errors import ConfigError
from robopolicy.networks.attention import Attention, attend, differentiate_twice, split_by_decay
from robopolicy.registry import build

SIZES = {"action_size": 3, "horizon": 8, "obs_horizon": 2, "condition_size": 5}
WIDE = {"name": "dppo_mlp", "width": 1024, "embedding": 32}
SMALL: list[dict[str, Any]] = [
    {"name": "transformer", "width": 16, "layers": 2, "heads": 2},
    {"name": "dit", "width": 16, "layers": 2, "heads": 2},
    {"name": "dppo_mlp", "width": 32, "embedding": 8},
    {"name": "dppo_mlp", "width": 32, "embedding": 8, "condition": [16, 8]},
]


def make(config: dict[str, Any], **changes: int) -> nn.Module:
    """A network whose every weight matters: those that start at zero are moved."""
    torch.manual_seed(0)
    network: nn.Module = build("network", config, **{**SIZES, **changes})
    for parameter in network.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return network


def inputs(batch: int = 4, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((batch, 8, 3), (batch,), (batch, 2, 5))
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


@pytest.mark.parametrize("config", SMALL, ids=lambda c: c["name"])
def test_every_network_uses_all_its_inputs(config: dict[str, Any]) -> None:
    values = [value.requires_grad_() for value in inputs()]
    network = make(config)
    output = network(*values)
    assert output.shape == values[0].shape
    output.square().sum().backward()
    assert all(v.grad is not None and v.grad.abs().sum() > 0 for v in values)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("config", SMALL, ids=lambda c: c["name"])
def test_rows_are_independent(config: dict[str, Any]) -> None:
    network = make(config).eval()
    x, level, condition = inputs()
    whole = network(x, level, condition)
    x[1:], level[1:], condition[1:] = x[1:] + 1, level[1:] + 1, condition[1:] + 1
    assert torch.equal(network(x, level, condition)[0], whole[0])


@pytest.mark.parametrize("config", SMALL, ids=lambda c: c["name"])
def test_bfloat16_stays_close(config: dict[str, Any]) -> None:
    network = make(config).eval()
    exact = network(*inputs())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(*inputs()).float()
    assert (exact - rounded).abs().mean() < 0.05 * exact.abs().mean()


@pytest.mark.parametrize(
    ("config", "sizes", "count"),
    [
        ({"name": "transformer"}, (10, 10, 2, 19), 8_967_434),  # Lift; the paper says 9 M
        ({"name": "dppo_mlp"}, (7, 4, 1, 23), 575_564),  # Can; the paper says 576 K
        ({"name": "dppo_mlp"}, (3, 4, 1, 11), 553_020),  # Hopper; 553 K
        ({**WIDE, "condition": (512, 64)}, (7, 4, 1, 23), 2_305_212),  # Square; 2.31 M
        (WIDE, (14, 8, 1, 59), 2_427_088),  # Transport; 2.43 M
    ],
    ids=["transformer lift", "mlp can", "mlp hopper", "mlp square", "mlp transport"],
)  # fmt: skip
def test_published_sizes(config: dict[str, Any], sizes: tuple[int, ...], count: int) -> None:
    network = build("network", config, **dict(zip(SIZES, sizes, strict=True)))
    assert sum(p.numel() for p in network.parameters()) == count


def test_action_tokens_see_the_past_alone() -> None:
    """Action t depends on noisy actions <= t, observations <= t and the noise level."""
    network = make(SMALL[0], obs_horizon=4).eval()
    x, level, _ = inputs(1)
    condition = torch.randn(1, 4, 5)
    whole = network(x, level, condition)[0]
    for t in range(8):
        changed = x.clone()
        changed[:, t] += 1
        moved = (network(changed, level, condition)[0] != whole).any(-1)
        assert not moved[:t].any()
        assert moved[t:].all()
    for t in range(4):
        changed = condition.clone()
        changed[:, t] += 1
        moved = (network(x, level, changed)[0] != whole).any(-1)
        assert not moved[:t].any()
        assert moved[t:].all()
    assert (network(x, level + 1, condition)[0] != whole).any(-1).all()


def test_an_untrained_dit_is_zero_and_its_layers_the_identity() -> None:
    network = build("network", SMALL[1], **SIZES)
    assert (network(*inputs()) == 0).all()
    tokens, context = torch.randn(2, 8, 16), torch.randn(2, 16)
    assert torch.equal(network.layers[0](tokens, context), tokens)


@pytest.mark.parametrize("masked", [True, False])
def test_plain_attention_is_the_fused_one(masked: bool) -> None:
    torch.manual_seed(0)
    fused = Attention(8, 2).double()
    plain = Attention(8, 2).double()
    plain.load_state_dict(fused.state_dict())
    differentiate_twice(plain)
    mask = torch.ones(3, 5, dtype=torch.bool).tril() if masked else None
    x, context = torch.randn(2, 3, 8).double(), torch.randn(2, 5, 8).double()
    torch.testing.assert_close(fused(x, context, mask), plain(x, context, mask))


def test_second_derivatives_are_right_or_refused() -> None:
    """The fused kernel must not answer with a wrong one; the plain one is checked numerically."""
    shapes = ((1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4))
    values = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    mask = torch.ones(3, 5, dtype=torch.bool).tril()
    assert torch.autograd.gradgradcheck(lambda q, k, v: attend(q, k, v, mask), values)

    network = make(SMALL[0])
    x, level, condition = inputs()
    x.requires_grad_()

    def curvature() -> torch.Tensor:
        (slope,) = torch.autograd.grad(network(x, level, condition).square().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), x)[0]

    with pytest.raises(RuntimeError, match="not implemented"):
        curvature()
    differentiate_twice(network)
    assert torch.isfinite(curvature()).all()


def test_decay_spares_biases_norms_and_positions() -> None:
    network = make(SMALL[0])
    names = {id(p): name for name, p in network.named_parameters()}
    decayed, undecayed = ({names[id(p)] for p in group} for group in split_by_decay(network))
    assert len(decayed) + len(undecayed) == len(names)
    assert {"positions.table", "memory_positions.table", "outlet.0.weight", "inlet.bias"} <= undecayed
    assert {"inlet.weight", "layers.0.own.query.weight", "outlet.1.weight"} <= decayed
    assert not any(name.endswith("bias") or ".norms." in name for name in decayed)


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"width=30, layers=8, heads=4"):
        build("network", {"name": "transformer", "width": 30}, **SIZES)
    with pytest.raises(ConfigError, match="dit needs"):
        build("network", {"name": "dit", "layers": 0}, **SIZES)
    with pytest.raises(ConfigError, match="heads=3 does not divide width=8"):
        Attention(8, 3)
    with pytest.raises(ConfigError, match="even embedding"):
        build("network", {"name": "dppo_mlp", "embedding": 5}, **SIZES)
