"""Progress bars: lively in a terminal, a few lines a minute in a log file."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

__all__ = ["progress_bar"]


def progress_bar(over: Iterable[Any] | None = None, **settings: Any) -> tqdm[Any]:
    """tqdm's bar; where nobody watches, it is redrawn every ten seconds instead of ten times a second."""
    return tqdm(over, mininterval=0.1 if sys.stderr.isatty() else 10.0, **settings)
