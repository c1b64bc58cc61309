"""What replaces torch's own kernels on a CPU computes the same."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from robopolicy.networks import unet1d
from robopolicy.networks.mish import Mish
from robopolicy.networks.mlp import MLP, MLPConfig
from robopolicy.networks.unet1d import UNet1D, UNet1DConfig, matrix_convolution


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("steps", [1, 2, 4, 16])
def test_matrix_convolution_is_a_convolution(kernel: int, steps: int) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(shape, dtype=torch.float64) for shape in ((3, 6, steps), (8, 6, kernel), (8,))]
    ours = [value.clone().requires_grad_() for value in inputs]
    torchs = [value.clone().requires_grad_() for value in inputs]
    found = matrix_convolution(*ours)
    expected = F.conv1d(*torchs, padding=kernel // 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    weight = torch.randn_like(expected)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    for a, b in zip(ours, torchs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-10)


def test_the_unet_in_bfloat16_uses_the_shortcut_and_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    quick = UNet1D(
        UNet1DConfig(channels=(16, 32), embedding=16),
        action_size=3,
        horizon=8,
        obs_horizon=2,
        condition_size=5,
    )
    plain = copy.deepcopy(quick)
    x, level, condition = torch.randn(4, 8, 3), torch.rand(4), torch.randn(4, 2, 5)

    def gradients(network: UNet1D) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            output = network(x, level, condition)
        output.float().square().sum().backward()
        return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    used = []
    original = unet1d.matrix_convolution
    monkeypatch.setattr(unet1d, "matrix_convolution", lambda *args: used.append(1) or original(*args))
    a = gradients(quick)
    assert used
    monkeypatch.setattr(unet1d, "SHORT", 0)
    used.clear()
    b = gradients(plain)
    assert not used
    assert torch.linalg.vector_norm(a - b) < 0.02 * torch.linalg.vector_norm(b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mish_and_its_slope(dtype: torch.dtype) -> None:
    x = torch.linspace(-30, 60, 2003).to(dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    weight = torch.linspace(1, 2, 2003).to(dtype)
    found, expected = Mish()(x), F.mish(exact)
    (slope,) = torch.autograd.grad(found, x, weight)
    (exact_slope,) = torch.autograd.grad(expected, exact, weight.double())
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), expected, rtol=4 * rounding, atol=0)
    torch.testing.assert_close(slope.double(), exact_slope, rtol=4 * rounding, atol=20 * 2.0**-23)
    assert found.dtype == slope.dtype == dtype


def test_mish_has_second_derivatives() -> None:
    x = torch.linspace(-3, 3, 50, requires_grad=True)
    exact = x.detach().double().requires_grad_()
    second = []
    for value, function in ((x, Mish()), (exact, F.mish)):
        (slope,) = torch.autograd.grad(function(value).sum(), value, create_graph=True)
        second.append(torch.autograd.grad(slope.square().sum(), value)[0].double())
    torch.testing.assert_close(*second, rtol=1e-4, atol=1e-5)


def test_mish_accepts_any_layout_of_the_gradient() -> None:
    x = torch.randn(4, 6, requires_grad=True)
    (expected,) = torch.autograd.grad(Mish()(x), x, torch.ones(4, 6))
    (found,) = torch.autograd.grad(Mish()(x), x, torch.ones(6, 4).t())
    torch.testing.assert_close(found, expected)


def test_the_stream_of_an_mlp_in_bfloat16_loses_no_small_addition() -> None:
    """A long trained MLP has values of a hundred between its blocks; to bfloat16 100.2 is 100."""
    torch.manual_seed(0)
    network = MLP(MLPConfig(width=16, blocks=2), action_size=2, horizon=4, obs_horizon=1, condition_size=3)
    streams: list[torch.Tensor] = []
    network.inlet.register_forward_hook(lambda module, inputs, output: output + 100)
    for block in network.blocks:
        block.register_forward_hook(lambda module, inputs, output: streams.append(output))
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(5, 4, 2), torch.rand(5), torch.randn(5, 1, 3))
    first, second = streams
    added = second - first
    assert 0 < added.abs().max() < 1
    assert not torch.equal(second, second.bfloat16().float())
