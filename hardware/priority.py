"""Who goes first on a busy machine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["go_first"]

_SESSION_NICE = Path("/proc/self/autogroup")


def go_first(nice: int) -> None:
    """Ask for priority, without insisting: -20 is the most.

    Linux may share cores among sessions first, and then only a session's own priority counts.
    """
    with contextlib.suppress(PermissionError):
        os.nice(nice)
        if _SESSION_NICE.exists():
            _SESSION_NICE.write_text(str(nice))
