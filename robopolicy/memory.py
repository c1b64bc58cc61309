"""Freed memory stays with the process."""

from __future__ import annotations

import ctypes

__all__ = ["KEPT", "keep_memory"]

KEPT = 1 << 30
"""Bytes at the top of the heap that are kept for what comes next."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 32 << 20
"""glibc takes what is larger from the system each time, whatever it is told."""


def keep_memory() -> bool:
    """Tell glibc not to hand freed memory back to the system; whether it can be told.

    Tensors of a few megabytes come and go in every layer of a large batch. By default their pages are given
    back and taken again, cleared, each time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library than glibc
        return False
    return bool(mallopt(_TRIM_THRESHOLD, KEPT)) and bool(mallopt(_MMAP_THRESHOLD, _LARGEST))
