"""Figures from made-up traffic, and a look at real traffic between two processes."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")

from hardware.sim.timing import drive, summarise
from robopolicy.errors import DataError
from tests.hardware.wire import free_network

MS = 1_000_000


def test_perfect_traffic() -> None:
    states = np.arange(1000, dtype=np.int64) * 2 * MS
    figures = summarise(states, states + MS // 2)
    assert figures["state_hz"] == pytest.approx(500.0)
    assert figures["command_hz"] == pytest.approx(500.0)
    assert figures["state_jitter_ms"]["max"] == 0.0
    assert figures["state_to_command_ms"]["p50"] == pytest.approx(0.5)
    assert figures["missed_deadlines"] == 0


def test_what_is_late_is_counted() -> None:
    states = np.arange(100, dtype=np.int64) * 2 * MS
    commands = states + MS
    commands = np.delete(commands, [10, 20, 21])
    figures = summarise(states, commands)
    assert figures["missed_deadlines"] == 3
    assert figures["state_to_command_ms"]["max"] == pytest.approx(5.0)
    assert figures["command_jitter_ms"]["max"] == pytest.approx(4.0)
    assert figures["missed_share"] == pytest.approx(0.03)


def test_nothing_to_time_is_said() -> None:
    with pytest.raises(DataError, match="Saw 0 states and 1 commands"):
        summarise(np.zeros(0, np.int64), np.zeros(1, np.int64))


@pytest.mark.sim
@pytest.mark.slow
def test_the_loop_runs_on_the_wire() -> None:
    figures = drive(free_network(), 1.0)
    assert figures["rejected"] == 0
    assert figures["states"] > 100
    assert figures["commands"] > 50
    assert figures["state_to_command_ms"]["p50"] > 0.0
    assert figures["state_hz"] > 50
