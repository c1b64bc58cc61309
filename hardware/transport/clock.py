"""Time stamps of another machine on our monotonic clock."""

from __future__ import annotations

from collections import deque

__all__ = ["SourceClock"]


class SourceClock:
    """Converts the stamps of one sender, whatever its clock shows, up to the shortest delay of its messages.

    The offset is the smallest difference between receiving and stamping among the last `window` messages: a
    late message changes nothing, and after a jump of the sender's clock the offset is right again once the
    window has passed.
    """

    def __init__(self, window: int = 500) -> None:
        self._window = window
        self._count = 0
        self._smallest: deque[tuple[int, int]] = deque()

    def update(self, stamp_ns: int, received_ns: int) -> int:
        """Learn from a message; when it was sent, on our clock, never after it was received."""
        offset, kept = received_ns - stamp_ns, self._smallest
        # Increasing offsets of increasing age: the first is the smallest of the window.
        while kept and kept[-1][1] >= offset:
            kept.pop()
        kept.append((self._count, offset))
        if kept[0][0] <= self._count - self._window:
            kept.popleft()
        self._count += 1
        return stamp_ns + kept[0][1]

    def convert(self, stamp_ns: int) -> int | None:
        """When something else of this sender was stamped, on our clock; None before the first message."""
        return stamp_ns + self._smallest[0][1] if self._smallest else None
