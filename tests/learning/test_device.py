"""Where networks run: names that are no devices, and products that oneDNN may make."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from robopolicy.errors import ConfigError
from robopolicy.learning.device import choose_device, onednn_products, onednn_suits


@pytest.fixture
def restored() -> Iterator[None]:
    yield
    onednn_products(onednn_suits())


@pytest.mark.parametrize("name", ["gpu", "cpu:x", ""])
def test_a_name_that_is_no_device(name: str) -> None:
    with pytest.raises(ConfigError, match="auto, cpu, cuda"):
        choose_device(name)


def test_a_gpu_that_is_not_there() -> None:
    count = torch.cuda.device_count()
    with pytest.raises(ConfigError, match=f"torch finds {count} CUDA devices"):
        choose_device(f"cuda:{count}")


def test_products_stay_as_exact_as_float32_is(restored: None) -> None:
    """Whatever was chosen here, a layer and its gradients are not rounded to bfloat16."""
    choose_device("cpu")
    torch.manual_seed(0)
    layer = torch.nn.Linear(512, 256)
    exact = torch.nn.Linear(512, 256).double()
    exact.load_state_dict(layer.state_dict())
    x = torch.randn(64, 512)
    for module, given in ((layer, x), (exact, x.double())):
        module(given).square().sum().backward()
    assert torch.allclose(layer(x).double(), exact(x.double()), atol=1e-5)
    scale = exact.weight.grad.abs().max()  # type: ignore[union-attr]
    assert ((layer.weight.grad.double() - exact.weight.grad).abs() < 1e-5 * scale).all()  # type: ignore[union-attr]


def test_asking_whether_onednn_suits_changes_nothing(restored: None) -> None:
    for wanted in (True, False):
        onednn_products(wanted)
        before = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
        onednn_suits.cache_clear()
        onednn_suits()
        assert torch.backends.mkldnn.matmul.fp32_precision == before  # type: ignore[attr-defined]
