"""Where networks run, in which precision, and how a CPU multiplies their matrices."""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from robopolicy.cpu import BFLOAT16, cpu_flags, cpu_lines
from robopolicy.errors import ConfigError

__all__ = ["MANY", "bfloat16_suits", "choose_device", "onednn_suits", "products_of", "reduced"]

MANY = 8
"""Rows from which on oneDNN is the faster one for layers of width 512; narrower ones gain from 24 on."""


def choose_device(name: str) -> torch.device:
    """ "auto" is the GPU where there is one, under torchrun each process's own."""
    if name == "auto":
        own = os.environ.get("LOCAL_RANK")
        device = torch.device(
            ("cuda" if own is None else f"cuda:{own}") if torch.cuda.is_available() else "cpu"
        )
    else:
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise ConfigError(
                f"device={name!r} is not a device: use auto, cpu, cuda or cuda:<index>."
            ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device={name}: torch finds {torch.cuda.device_count()} CUDA devices here.")
    return device


def reduced(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Inside, layers run in that precision; where bfloat16 would be slow, in float32, with a warning."""
    if precision == "bfloat16" and bfloat16_suits(device.type):
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


@functools.cache
def bfloat16_suits(kind: str) -> bool:
    """Whether a device of this kind ("cpu", "cuda") has instructions for bfloat16.

    Without them torch imitates it, and a product takes many times as long as in float32. Where a system does
    not tell, it is believed to have them.
    """
    if kind == "cuda":
        suits = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        flags = cpu_flags()
        suits = kind != "cpu" or not flags or not flags.isdisjoint(BFLOAT16)
    if not suits:
        warnings.warn(
            f"precision=bfloat16: this {kind} has no instructions for it, and would be many times slower "
            "than in float32, which is used instead.",
            stacklevel=3,
        )
    return suits


@contextlib.contextmanager
def products_of(rows: int) -> Iterator[None]:
    """Inside, products of matrices with so many rows are made by the library that is faster for them.

    That is torch's default for few: oneDNN takes 10 microseconds more for each call.
    """
    if rows < MANY or not onednn_suits():
        yield
        return
    before = _matmul().fp32_precision
    try:
        # torch asks oneDNN for float32 products only where bfloat16 would be permitted, hence the name.
        _matmul().fp32_precision = "bf16"
        yield
    finally:
        _matmul().fp32_precision = before


@functools.cache
def onednn_suits() -> bool:
    """Whether oneDNN's float32 products are the faster ones here, and as exact as MKL's.

    MKL leaves AVX-512 unused on AMD's CPUs, where oneDNN takes half its time; of the permission to round to
    bfloat16 oneDNN makes use on CPUs with AMX alone. The exactness is measured, not believed.
    """
    if not hasattr(_matmul(), "fp32_precision") or not torch.backends.mkldnn.is_available():
        return False
    flags = cpu_flags()
    amd = cpu_lines().get("vendor_id") == "AuthenticAMD"
    return amd and "avx512f" in flags and "amx_bf16" not in flags and _exact()


def _exact() -> bool:
    """Whether products of every kind that a linear layer needs err as float32 does, not as bfloat16 does."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 128, 256, generator=generator, dtype=torch.float64) for _ in range(2))
    before = _matmul().fp32_precision
    try:
        _matmul().fp32_precision = "bf16"
        pairs = [(a, b.mT), (a.mT, b), (a.mT.contiguous().mT, b.mT.contiguous())]
        found = [(left.float() @ right.float(), left @ right) for left, right in pairs]
        found += [(left[0].float() @ right[0].float(), left[0] @ right[0]) for left, right in pairs]
        return all(bool(((got - wanted).abs() < 1e-3).all()) for got, wanted in found)
    finally:
        _matmul().fp32_precision = before


def _matmul() -> Any:
    """torch's settings of oneDNN's products; None where torch has none."""
    return getattr(torch.backends.mkldnn, "matmul", None)
