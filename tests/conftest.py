"""Markers and time limits that hold for every test."""

from __future__ import annotations

import os
import time

import pytest

# Set before torch and NumPy are imported: with several test processes more threads only get in the way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_START = time.monotonic()


@pytest.fixture
def rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 wherever it is asked for, however slow it is on this machine."""
    monkeypatch.setattr("robopolicy.device.bfloat16_suits", lambda kind: True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--slow-minutes", type=float, help="start no test marked slow after this many minutes (it is skipped)"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)  # stable: slow ones go last
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        if not torch.cuda.is_available():
            for item in items:
                if item.get_closest_marker("gpu"):
                    item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes = item.config.getoption("--slow-minutes")
    if minutes is not None and item.get_closest_marker("slow") and time.monotonic() - _START > 60 * minutes:
        pytest.skip(f"not run: {minutes:g} minutes are over")
