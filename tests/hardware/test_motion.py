"""The guard's motion: a robot that does exactly what is sent."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.motion import Motion, braking_bound, braking_way
from hardware.spec import GuardConfig
from tests.hardware.fakes import Driven, small_spec

NUMBERS = st.floats(allow_nan=True, allow_infinity=True, width=64)


def brute_force_stop(m: float) -> float:
    """Steps of m, m - 1, ... until nothing is left."""
    total = 0.0
    while m > 0:
        total += m
        m -= 1.0
    return total


@given(st.floats(0, 1e4), st.floats(0.1, 100), st.floats(1e-3, 0.1))
def test_braking_bound_is_the_largest_that_stops_in_time(room: float, acc: float, dt: float) -> None:
    v = float(braking_bound(np.array([room]), np.array([acc]), dt)[0])
    unit = acc * dt * dt
    m = v / (acc * dt)
    if m < 1e4:
        assert brute_force_stop(m) * unit <= room + 1e-9 * (1 + room)
        assert brute_force_stop(1.000001 * m + 1e-6) * unit >= room


def furthest(bound: Callable[[float], float], acc: float = 10.0, dt: float = 0.01) -> float:
    """How far a joint gets that drives at a wall at 1 as fast as a bound lets it."""
    q, v, most = 0.0, 0.0, 0.0
    for _ in range(500):
        v = min(max(min(2.0, bound(1.0 - q)), v - acc * dt), v + acc * dt)
        q += v * dt
        most = max(most, q)
    return most


def test_usual_bound_overshoots_and_this_one_does_not() -> None:
    assert furthest(lambda room: float(np.sqrt(20.0 * max(room, 0.0)))) > 1.0 + 1e-4
    acc = np.array([10.0])
    assert furthest(lambda room: float(braking_bound(np.array([room]), acc, 0.01)[0])) < 1.0 + 1e-12


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=60))
def test_no_input_passes_a_joint_limit(targets: list[tuple[float, float]]) -> None:
    spec = small_spec(guard=GuardConfig(start_ramp_s=0.0, finite="clamp", tracking="off"))
    driven = Driven(spec)
    limit = spec.array("upper") - spec.guard.position_margin
    vel, acc = 0.9 * spec.array("vel"), 0.9 * spec.array("acc")
    for target in targets:
        before = driven.dq
        driven.send(np.array(target))
        assert (np.abs(driven.q) <= limit + 1e-12).all()
        assert (np.abs(driven.dq) <= vel + 1e-9).all()
        assert (np.abs(driven.dq - before) * spec.control_hz <= acc + 1e-7).all()
    assert driven.guard.overshoot < 1e-4


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_full_speed_into_the_limit_stops_at_it(sign: float) -> None:
    driven = Driven(small_spec())
    for _ in range(400):
        driven.send(np.full(2, sign * 100.0))
    np.testing.assert_allclose(driven.q, sign * 1.9, atol=1e-6)
    assert driven.guard.overshoot < 1e-12
    assert driven.guard.counters["position"] == 400


@pytest.mark.parametrize("told", [True, False])
def test_a_moving_target_is_followed_without_lag_and_a_step_without_overshoot(told: bool) -> None:
    driven = Driven(small_spec(control_hz=500.0))
    errors = []
    for index in range(2000):
        t = (index + 1) / 500.0
        q, rate = 0.5 * np.sin(2.0 * t), np.full(2, 1.0 * np.cos(2.0 * t))
        driven.send(np.full(2, q), dq=rate if told else None)
        errors.append(abs(driven.q[0] - q))
    assert max(errors[250:]) < 1e-3
    for _ in range(1000):
        driven.send(np.full(2, -1.0))
        assert (driven.q >= -1.0 - 1e-3).all()
    np.testing.assert_allclose(driven.q, -1.0, atol=1e-9)
    assert not driven.dq.any()


def test_start_ramp_begins_at_a_tenth_of_the_speed() -> None:
    spec = small_spec(guard=GuardConfig(start_ramp_s=1.0, position_margin=0.0))
    driven, speeds = Driven(spec, q=np.full(2, -2.0)), []
    for _ in range(120):
        driven.send(np.full(2, 10.0))
        speeds.append(np.abs(driven.dq).max() / (0.9 * 2.0))
    times = 0.01 * np.arange(1, 121)
    assert (np.array(speeds) <= np.minimum(0.1 + 0.9 * times, 1.0) + 1e-9).all()
    assert max(speeds[100:]) > 0.9


@given(st.floats(-1e3, 1e3), st.floats(0.1, 100), st.floats(1e-3, 0.1))
def test_way_of_braking_is_that_of_its_steps_and_the_bounds_inverse(v: float, acc: float, dt: float) -> None:
    step = acc * dt
    way = float(braking_way(np.array([v]), np.array([acc]), dt)[0])
    if abs(v) / step < 1e4:
        assert way == pytest.approx(brute_force_stop(abs(v) / step - 1.0) * step * dt, rel=1e-9, abs=1e-9)
    slower = float(braking_bound(np.array([way]), np.array([acc]), dt)[0])
    assert slower == pytest.approx(max(abs(v) - step, 0.0), rel=1e-6, abs=1e-6 * step)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.001, 1.0))
def test_the_usual_case_is_judged_as_all_others_are(seed: int, swing: float) -> None:
    """The few operations that tell that nothing needs limiting change nothing."""
    rng = np.random.default_rng(seed)
    spec = small_spec()
    found: list[str] = []

    def flag(name: str, message: str) -> bool:
        found.append(name)
        return True

    quick, careful = (Motion(spec, flag, lambda: False) for _ in range(2))
    careful._at_ease = lambda wanted, ahead: False  # type: ignore[method-assign]
    rate, phase = rng.uniform(0.5, 4.0, 2), rng.uniform(0, 6.3, 2)
    for index in range(200):
        target = 2.0 * swing * np.sin(rate * 0.01 * index + phase)
        reasons = []
        for motion in (quick, careful):
            found.clear()
            motion.follow(target, None, index)
            reasons.append(list(found))
        assert reasons[0] == reasons[1]
        np.testing.assert_allclose(quick.q, careful.q, rtol=0, atol=1e-13)
        np.testing.assert_allclose(quick.v, careful.v, rtol=0, atol=1e-12)


def test_a_measured_motion_that_cannot_stop_at_the_limit_uses_the_margin_and_no_more() -> None:
    """Noise after a stall: neither is acceleration exceeded nor the vendor's limit passed."""
    driven = Driven(small_spec())
    limit, step = 1.9, 0.01 * 0.9 * 10.0
    driven.send(np.zeros(2))
    for start, v in ((1.8995, 0.15), (-1.8995, -0.15), (1.7, 1.0), (1.95, 0.0)):
        driven.now += 2 * driven.spec.cmd_timeout_ns
        driven.q, driven.dq = np.full(2, start), np.full(2, v)
        speeds, furthest = [np.array(driven.dq)], abs(start)
        for _ in range(100):
            driven.send(np.full(2, np.sign(start) * 5.0))
            speeds.append(driven.dq)
            furthest = max(furthest, float(np.abs(driven.q).max()))
        assert np.abs(np.diff(speeds, axis=0)).max() <= step + 1e-9
        end = start + float(braking_way(np.array([v]), np.array([9.0]), 0.01)[0]) * np.sign(v)
        assert furthest == pytest.approx(max(abs(end), limit), abs=1e-9)
        for target in (0.0, np.sign(start) * 5.0):
            for _ in range(300):
                driven.send(np.full(2, target))
        np.testing.assert_allclose(driven.q, np.sign(start) * limit, atol=1e-6)  # the walls are back
    assert driven.guard.overshoot < 1e-12
