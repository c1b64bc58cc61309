"""Losses that belong to a network and not to what it learns: how evenly experts are used, say.

A network in training offers them with `add_loss`; `Policy.forward` collects them, adds them and logs them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

__all__ = ["add_loss", "auxiliary_losses"]

_open: ContextVar[dict[str, Tensor] | None] = ContextVar("auxiliary losses", default=None)


def add_loss(name: str, value: Tensor) -> None:
    """Offer a scalar, weighted as it is to count; where nobody collects, nothing happens."""
    found = _open.get()
    if found is not None:
        found[name] = found[name] + value if name in found else value


@contextmanager
def auxiliary_losses() -> Iterator[dict[str, Tensor]]:
    """The losses offered inside, added up by name."""
    found: dict[str, Tensor] = {}
    token = _open.set(found)
    try:
        yield found
    finally:
        _open.reset(token)
