from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from hardware.collision import Shadow
from hardware.guard import Guard
from hardware.messages import Command
from hardware.spec import CHECKS, RobotSpec
from tests.hardware.fakes import Driven, small_spec


@pytest.mark.parametrize(
    "bad",
    [
        {"q": np.array([np.nan, 0.0])},
        {"q": np.array([0.0, np.inf])},
        {"q": np.zeros(3)},
        {"q": np.zeros((2, 1))},
        {"q": [0.0, 0.0]},
        {"q": np.array(["0", "0"])},
        {"q": np.zeros(2, dtype=complex)},
        {"q": np.zeros(2), "kp": np.array([np.nan, 1.0])},
        {"q": np.zeros(2), "tau_ff": np.zeros(1)},
        {"q": np.zeros(2), "gripper": np.nan},
        {"q": np.zeros(2), "weight": np.inf},
        {"q": np.zeros(2), "base": np.zeros(2)},
    ],
    ids=str,
)
def test_malformed_commands_latch_and_the_latch_is_sticky(bad: dict[str, Any]) -> None:
    driven = Driven(small_spec())
    for _ in range(20):
        driven.send(np.full(2, 1.0))
    assert driven.dq.any()
    sent = driven.send(make=lambda d: d.command(**bad))
    assert {"finite", "latched"} <= set(sent.reasons)
    assert "malformed" in driven.guard.latched
    for _ in range(100):
        speed = np.abs(driven.dq)
        driven.send(np.full(2, 1.0))
        assert (np.abs(driven.dq) <= speed + 1e-12).all()
    assert not driven.dq.any()
    driven.guard.clear()
    driven.guard.begin(driven.observation(), driven.now)
    driven.send(np.full(2, 1.0))
    assert driven.dq.any()


def test_denormals_are_numbers() -> None:
    driven = Driven(small_spec())
    assert driven.send(np.full(2, 5e-324)).reasons == ()
    assert not driven.guard.latched


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"t_ns": 0}, "stale_command"),
        ({"t_ns": 10**12}, "stale_command"),
        ({"valid_until_ns": 0}, "stale_command"),
        ({"q": None}, "starved"),
    ],
)
def test_stale_and_missing_commands_brake_and_recover(changes: dict[str, Any], reason: str) -> None:
    driven = Driven(small_spec())
    for _ in range(20):
        driven.send(np.full(2, 1.0))
    sent = driven.send(make=lambda d: d.command(**{"q": np.full(2, 1.0), **changes}))
    assert "order" in sent.reasons or reason in sent.reasons
    for _ in range(30):
        driven.send(make=lambda d: d.command(q=np.full(2, 1.0), valid_until_ns=0))
    assert not driven.dq.any()
    assert driven.guard.holding
    assert not driven.guard.latched
    driven.send(np.full(2, 1.0))
    assert not driven.guard.holding


def test_a_stale_observation_stops_an_arm_and_damps_a_humanoid() -> None:
    for stop, interface in (("hold", "position"), ("damp", "impedance")):
        driven = Driven(small_spec(stop=stop, interface=interface))
        old = driven.observation()
        for _ in range(12):
            driven.now += driven.spec.period_ns
            sent = driven.guard.filter(driven.command(np.ones(2)), old, driven.now)
        assert driven.guard.holding
        assert "stale_observation" in driven.guard.counters
        assert bool(driven.guard.latched) == (stop == "damp")
        if stop == "damp":
            assert sent.kp is not None
            assert sent.kd is not None
            assert not sent.kp.any()
            assert (sent.kd > 0).all()


def test_an_observation_that_is_not_finite_latches() -> None:
    driven = Driven(small_spec())
    driven.dq = np.array([np.nan, 0.0])
    driven.send(np.ones(2))
    assert "observation" in driven.guard.latched


def test_commands_out_of_order_and_rejected_messages_trip_in_numbers() -> None:
    driven = Driven(small_spec())
    driven.send(np.zeros(2))
    assert "order" in driven.send(make=lambda d: d.command(np.ones(2), t_ns=d.now - 15_000_000)).reasons
    for _ in range(18):
        driven.guard.rejected("crc", driven.now)
    assert not driven.guard.latched
    driven.guard.rejected("crc", driven.now)
    assert "rejected" in driven.guard.latched
    assert driven.guard.counters["crc"] == 19


def test_a_robot_that_does_not_follow_trips() -> None:
    driven = Driven(small_spec(arm_ramp_s=0.02))
    stuck = driven.q
    for _ in range(100):
        driven.q = stuck
        driven.dq = np.zeros(2)
        driven.send(np.ones(2))
    assert "from what was sent" in driven.guard.latched
    driven = Driven(small_spec())
    driven.now += driven.spec.period_ns
    driven.dq = np.array([5.0, 0.0])
    driven.guard.filter(driven.command(np.ones(2)), driven.observation(), driven.now)
    assert "shoulder was measured at 5.00 rad/s" in driven.guard.latched


@pytest.mark.parametrize("check", [c for c in CHECKS if c not in ("finite", "freshness", "tracking")])
def test_every_check_has_its_modes(check: str) -> None:
    """One scenario that violates everything: off is silent, warn counts and lets pass, trip latches."""
    base = RobotSpec.load("g1_sim" if check == "torque" else "panda_sim")
    target = base.array("home") + (0.0 if check == "torque" else 4.0)
    if check in ("workspace", "collision"):  # into the table, slowly
        target = base.array("home") + np.array([0.0, 1.4, 0.0, 0.3, 0.0, 0.0, 0.0])
    if check == "cartesian_speed":
        target = base.array("home") + np.array([2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    quiet = dict.fromkeys((c for c in CHECKS if c not in ("finite", "freshness", check)), "off")
    modes = ["off", "warn", "trip"] if check == "step" else ["off", "warn", "clamp", "trip"]
    for mode in modes:
        guard = dataclasses.replace(base.guard, **{**quiet, check: mode}, start_ramp_s=0.0)
        driven = Driven(base.replace(guard=guard, stop="hold"))
        reasons: set[str] = set()
        for _ in range(150):
            tau = np.full(base.size, 500.0) if check == "torque" else None
            reasons |= set(driven.send(target, tau_ff=tau).reasons)
        assert (driven.guard.counters.get(check, 0) > 0) == (mode != "off")
        assert (check in reasons) == (mode in ("clamp", "trip"))
        assert bool(driven.guard.latched) == (mode == "trip")


def test_the_table_is_not_touched_and_the_way_back_is_free() -> None:
    spec = RobotSpec.load("panda_sim")
    spec = spec.replace(workspace=None, guard=dataclasses.replace(spec.guard, start_ramp_s=0.0))
    driven, shadow = Driven(spec), Shadow(spec)
    down = spec.array("home") + np.array([0.0, 1.0, 0.0, 0.3, 0.0, 0.0, 0.0])
    for _ in range(300):
        driven.send(down)
        shadow.place(driven.q)
        assert shadow.penetration() < 1e-3
    assert driven.guard.counters["collision"] > 0
    assert np.abs(driven.q - down).max() > 0.1
    for _ in range(500):
        driven.send(spec.array("home"))
    np.testing.assert_allclose(driven.q, spec.array("home"), atol=1e-6)


def test_torques_stay_within_effort_and_gains_within_the_spec() -> None:
    driven = Driven(small_spec(stop="damp", interface="impedance"))
    driven.q = np.array([0.3, -0.3])  # pushed away
    driven.now += driven.spec.period_ns
    command = driven.command(np.zeros(2), kp=np.full(2, 1e6), kd=np.full(2, -5.0), tau_ff=np.full(2, 1e6))
    sent = driven.guard.filter(command, driven.observation(), driven.now)
    assert sent.kp is not None
    assert sent.kd is not None
    assert sent.tau_ff is not None
    assert sent.q is not None
    assert sent.dq is not None
    total = sent.kp * (sent.q - driven.q) + sent.kd * (sent.dq - driven.dq) + sent.tau_ff
    assert (np.abs(total) <= 10.0 + 1e-9).all()
    assert (sent.kp <= 20.0).all()
    assert (sent.kd >= 0.0).all()
    assert "torque" in sent.reasons


@pytest.mark.parametrize("speed", [0.0, 1.0, 30.0])
def test_damping_has_no_torque_no_stiffness_and_a_floor(speed: float) -> None:
    driven = Driven(small_spec(stop="damp", interface="impedance"))
    driven.guard.trip("test")
    driven.dq = np.array([speed, -speed])
    driven.now += driven.spec.period_ns
    asked = driven.command(np.zeros(2), kp=np.full(2, 5.0), tau_ff=np.full(2, 5.0))
    sent = driven.guard.filter(asked, driven.observation(), driven.now)
    assert sent.kp is not None
    assert sent.kd is not None
    assert sent.tau_ff is not None
    assert sent.kp.tolist() == sent.tau_ff.tolist() == [0.0, 0.0]
    expected = min(8.0, max(2.0, 10.0 / speed)) if speed else 8.0
    np.testing.assert_allclose(sent.kd, expected)


def stalled(stop: str, interface: str, moved: float, speed: float) -> tuple[Driven, Command]:
    """A guard that nobody called for twice the timeout, while the robot moved on by itself."""
    driven = Driven(small_spec(stop=stop, interface=interface, arm_ramp_s=0.02))
    for _ in range(30):
        driven.send(np.full(2, 0.5))
    driven.now += 2 * driven.spec.cmd_timeout_ns
    driven.q, driven.dq = driven.q + moved, np.full(2, speed)
    sent = driven.guard.filter(driven.command(np.full(2, 0.5)), driven.observation(), driven.now)
    return driven, sent


def test_after_a_stall_an_arm_holds_where_it_is_and_goes_on() -> None:
    driven, sent = stalled("hold", "position", moved=0.7, speed=0.0)
    assert "stalled" in sent.reasons
    np.testing.assert_array_equal(sent.q, driven.q)
    assert not driven.guard.latched
    for _ in range(200):
        before = driven.q
        driven.send(np.full(2, 0.5))
        assert (np.abs(driven.q - before) <= 0.01 * 0.9 * 2.0 + 1e-12).all()
    np.testing.assert_allclose(driven.q, 0.5, atol=1e-6)
    driven, sent = stalled("hold", "position", moved=0.1, speed=0.5)
    assert sent.dq is not None
    np.testing.assert_allclose(sent.dq, 0.5 - 0.9 * 10.0 * 0.01)  # brakes from the measured velocity


def test_after_a_stall_a_humanoid_is_damped_and_not_pulled_back() -> None:
    driven, sent = stalled("damp", "impedance", moved=-0.7, speed=-1.0)
    assert "nothing was sent for 0.2" in driven.guard.latched
    assert sent.kp is not None
    assert not sent.kp.any()
    np.testing.assert_array_equal(sent.q, driven.q)


def test_a_stall_is_not_over_before_the_robot_is_seen_again() -> None:
    driven = Driven(small_spec())
    driven.send(np.zeros(2))
    old = driven.observation()
    driven.now += 2 * driven.spec.cmd_timeout_ns
    for _ in range(3):
        driven.now += driven.spec.period_ns
        sent = driven.guard.filter(driven.command(np.ones(2)), old, driven.now)
        assert {"stalled", "stale_observation"} <= set(sent.reasons)
    driven.q = np.full(2, 0.3)
    assert "stalled" in driven.send(np.ones(2)).reasons
    assert "stalled" not in driven.send(np.ones(2)).reasons
    assert (driven.q > 0.3).all()


def test_stricter_stops_win_and_the_first_reason_stays() -> None:
    guard = Guard(small_spec(stop="damp", interface="impedance"))
    guard.trip("first", "hold")
    guard.trip("second", "damp")
    guard.trip("third", "hold")
    assert (guard.latched, guard.stop_mode) == ("first", "damp")
