"""Stamps of a machine with any clock become times of ours."""

from __future__ import annotations

import numpy as np

from hardware.transport.clock import SourceClock

MS = 1_000_000


def test_the_shortest_delay_is_all_that_is_lost() -> None:
    rng = np.random.default_rng(0)
    clock = SourceClock(window=50)
    assert clock.convert(0) is None
    skew = -7_123_456_789_000
    delays = (rng.exponential(2.0, 400) * MS).astype(int) + MS // 2
    window: list[int] = []
    for i, delay in enumerate(delays.tolist()):
        sent = i * 10 * MS
        stamped = clock.update(sent + skew, sent + delay)
        window = [*window, delay][-50:]
        assert stamped - sent == min(window)
        assert stamped <= sent + delay
    # Another topic of the same sender, measured 50 ms before its message came.
    assert clock.convert(skew + 123) == 123 + min(window)


def test_a_jump_is_forgotten_with_the_window() -> None:
    clock = SourceClock(window=10)
    for i in range(20):
        clock.update(i * MS, i * MS)
    jump = 3_600_000 * MS
    assert clock.update(20 * MS + jump, 20 * MS) == 20 * MS  # forward: at once
    for i in range(21, 31):
        clock.update(i * MS, i * MS)  # backward: after the window
    assert clock.convert(40 * MS) == 40 * MS
