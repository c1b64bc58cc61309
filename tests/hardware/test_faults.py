"""Faults end to end: an arm on DDS, the control process, and a policy in a process of its own.

How long each took is written by ``python -m hardware.sim.faults``. What a policy can do wrong is tested with
both stop modes in test_runtime.py, what the G1's messages can in robots/test_unitree_g1.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")

from hardware.sim.faults import FAULTS, SAFE, TIMEOUT_S, Rig, inject
from hardware.spec import LifeState
from tests.hardware.wire import free_network

# The machine that runs tests may be busy: what is asserted is the timeout, two ticks, and this.
BUSY_MS = 150.0
PERIOD_MS = 10.0
ELSEWHERE = ("policy killed", "policy stopped", "policy slow", "policy sends nan")
ALIKE = ("messages doubled", "messages half lost", "messages 20 ms late", "robot's clock an hour back")
"""Another fault of their kind is in the fast suite."""

Record = Callable[[str, object], None]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in ELSEWHERE + ALIKE else ()) for name in FAULTS],
)
def test_a_fault_ends_in_safety_in_time_or_stops_nothing(
    name: str, tmp_path: Path, record_property: Record
) -> None:
    outcome, allowed_s = inject(name, free_network(), tmp_path / "run"), FAULTS[name].allowed_s
    record_property("safe_after_ms", outcome.safe_after_ms)
    print(f"{name}: {outcome}")
    if allowed_s is None:
        assert outcome.state == "RUNNING"
        assert outcome.moved
        assert outcome.latched == ""
        assert outcome.observation_age_ms < 1e3 * TIMEOUT_S + BUSY_MS
    else:
        assert outcome.safe_after_ms is not None
        assert outcome.safe_after_ms <= 1e3 * allowed_s + 2 * PERIOD_MS + BUSY_MS
    if name == "messages garbled":
        assert "rejected" in outcome.latched
    if name == "policy sends nan":
        assert "not finite" in outcome.latched


def test_what_was_frozen_goes_on_when_it_thaws(tmp_path: Path) -> None:
    with Rig(free_network(), tmp_path / "run") as rig:
        rig.arm.frozen.set()
        rig.wait(lambda: "stale_observation" in rig.tick()["reasons"], "without observations")
        assert rig.tick()["state"] in SAFE
        rig.arm.frozen.clear()
        rig.wait(lambda: rig.tick()["state"] is LifeState.RUNNING, "running again")
