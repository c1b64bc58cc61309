"""What steering by values did, added up over chunks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["ALIKE", "Ledger", "identical", "spread_of"]

ALIKE = 1e-5
"""Candidates nearer than this in every encoded entry are the same."""


def spread_of(encoded: Tensor) -> Tensor:
    """Root mean square deviation `[N]` of K candidates `[N, K, F]` from their mean, in encoded actions."""
    return (encoded - encoded.mean(1, keepdim=True)).square().mean((1, 2)).sqrt()


def identical(encoded: Tensor) -> Tensor:
    """Whether all candidates `[N, K, F]` are the same, bool `[N]`."""
    return (encoded - encoded[:, :1]).abs().amax((1, 2)) < ALIKE


class Ledger:
    """Sums of what was measured; says so when there is nothing to choose from."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def candidates(self, encoded: Tensor, policy: str) -> None:
        """Measure candidates `[N, K, F]` before anything is chosen among them."""
        first = "identical" not in self._sums
        self.add({"spread": spread_of(encoded), "identical": identical(encoded).float()})
        if first and encoded.shape[1] > 1 and self._sums["identical"] == self._counts["identical"]:
            warnings.warn(
                f"All {encoded.shape[1]} candidates are identical: {policy} does not sample, so choosing "
                "among its chunks changes nothing.",
                stacklevel=2,
            )

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add `[N]` of each name."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value.double().sum())
            self._counts[name] = self._counts.get(name, 0) + len(value)

    def seconds(self, **values: float) -> None:
        """Add the wall seconds of one call, whatever its batch."""
        self.add({f"seconds_{name}": torch.tensor([value]) for name, value in values.items()})

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.3g}" for name, value in self.report().items())

    def report(self) -> dict[str, float]:
        """Means so far, and the number of chunks."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        return {"chunks": float(self._counts.get("spread", 0)), **means}
