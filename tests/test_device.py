"""Where networks run: names that are no devices, and products that oneDNN may make."""

from __future__ import annotations

import pytest
import torch

from robopolicy import device
from robopolicy.device import MANY, bfloat16_suits, choose_device, onednn_suits, products_of, reduced
from robopolicy.errors import ConfigError


@pytest.mark.parametrize("name", ["gpu", "cpu:x", ""])
def test_a_name_that_is_no_device(name: str) -> None:
    with pytest.raises(ConfigError, match="auto, cpu, cuda"):
        choose_device(name)


def test_a_gpu_that_is_not_there() -> None:
    count = torch.cuda.device_count()
    with pytest.raises(ConfigError, match=f"torch finds {count} CUDA devices"):
        choose_device(f"cuda:{count}")


@pytest.mark.parametrize(
    ("flags", "rounded"),
    [("avx2", False), ("avx2 avx512f", False), ("avx512_bf16", True), ("amx_bf16", True), ("", True)],
)
def test_a_cpu_without_bfloat16_computes_in_float32_and_says_so(
    flags: str, rounded: bool, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(device, "cpu_flags", lambda: frozenset(flags.split()))
    bfloat16_suits.cache_clear()
    layer, x, cpu = torch.nn.Linear(4, 4), torch.ones(1, 4), torch.device("cpu")
    try:
        for _ in range(2):
            with reduced("bfloat16", cpu):
                assert layer(x).dtype == (torch.bfloat16 if rounded else torch.float32)
    finally:
        bfloat16_suits.cache_clear()
    assert [str(w.message)[:18] for w in recwarn] == ([] if rounded else ["precision=bfloat16"])
    with reduced("float32", cpu):
        assert layer(x).dtype == torch.float32


def test_products_stay_as_exact_as_float32_is() -> None:
    """Whatever was chosen here, a layer and its gradients are not rounded to bfloat16."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(512, 256)
    exact = torch.nn.Linear(512, 256).double()
    exact.load_state_dict(layer.state_dict())
    x = torch.randn(64, 512)
    with products_of(64):
        for module, given in ((layer, x), (exact, x.double())):
            module(given).square().sum().backward()
        assert torch.allclose(layer(x).double(), exact(x.double()), atol=1e-5)
    found, wanted = layer.weight.grad, exact.weight.grad
    assert found is not None
    assert wanted is not None
    assert ((found.double() - wanted).abs() < 1e-5 * wanted.abs().max()).all()


@pytest.mark.parametrize("rows", [1, MANY, 10_000])
def test_the_setting_is_as_before_afterwards(rows: int) -> None:
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, inside = settings.fp32_precision, ""

    def fail() -> None:
        nonlocal inside
        with products_of(rows), products_of(1):
            inside = settings.fp32_precision
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (inside == "bf16") == (rows >= MANY and onednn_suits())
    assert settings.fp32_precision == before
    onednn_suits.cache_clear()
    onednn_suits()
    assert settings.fp32_precision == before
