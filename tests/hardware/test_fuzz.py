from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from hardware.fuzz import HOSTILE, FuzzConfig, fuzz, run_fuzz
from hardware.fuzz_checks import FuzzReport, Limits
from hardware.messages import Command
from hardware.spec import RobotSpec
from robopolicy.errors import ConfigError, DataError
from tests.hardware.fakes import small_spec


@pytest.mark.parametrize(
    ("robot", "commands"),
    [("panda_sim", 2_000), ("g1_sim", 2_000)],
)
def test_fuzz(robot: str, commands: int) -> None:
    report = fuzz(RobotSpec.load(robot), commands=commands, seed=1)
    assert report.violations == {}, report
    assert report.overshoot_rad < 1e-4
    assert report.trips > 0
    assert set(report.hostile) == set(HOSTILE)


def test_fuzz_sees_a_guard_that_lets_things_pass() -> None:
    spec = RobotSpec.load("panda_sim")
    off = dict.fromkeys(
        ("position", "velocity", "acceleration", "cartesian_speed", "workspace", "collision"), "off"
    )
    broken = spec.replace(guard=dataclasses.replace(spec.guard, **off))
    found = fuzz(broken, commands=500, seed=1).violations
    assert {"position_rad", "velocity_rad_s", "acceleration_rad_s2", "ee_speed_m_s"} <= set(found)


def test_limits_are_noticed_one_by_one() -> None:
    """Each command passes one limit of a robot at 100 Hz that moves at most 1.8 rad/s and 9 rad/s^2."""
    spec = small_spec()
    for q, dq, target, passed in (
        (0.0, 0.0, 0.0, set()),
        (1.8915, 1.0, 1.901, {"position_rad"}),
        (0.0, 1.79, 0.0181, {"velocity_rad_s"}),
        (0.0, 0.0, 0.001, {"acceleration_rad_s2"}),
        (0.0, 0.0, np.nan, {"finite"}),
    ):
        report = FuzzReport(robot="small", seed=0)
        limits = Limits(spec, report)
        limits.start(np.full(2, q), np.full(2, dq))
        limits.beyond = 0.0
        limits.check(Command(t_ns=0, valid_until_ns=0, q=np.full(2, target)), limp=False, ignored=False)
        assert set(report.violations) == passed


def test_a_motion_under_way_may_end_where_braking_ends() -> None:
    limits = Limits(small_spec(), FuzzReport(robot="small", seed=0))
    limits.start(np.full(2, 1.89), np.full(2, 1.0))
    assert limits.beyond == pytest.approx(1.89 + 0.01 * sum(1.0 - 0.09 * k for k in range(1, 12)) - 1.9)
    limits.start(np.zeros(2), np.full(2, 1.0))
    assert limits.beyond == 0.0


def test_reports_are_written_with_their_making(tmp_path: Path) -> None:
    spec = small_spec()
    config = FuzzConfig(robot=spec, commands=1000, out=str(tmp_path))
    assert "no limit was passed" in run_fuzz(config)
    written = json.loads((tmp_path / "guard_fuzz_small.json").read_text())
    assert written["violations"] == {}
    assert {"commit", "date", "machine"} <= set(written)
    assert "microseconds" in run_fuzz(dataclasses.replace(config, speed=True))
    off = dataclasses.replace(spec.guard, velocity="off", acceleration="off", position="off")
    with pytest.raises(DataError, match="limits were passed"):
        run_fuzz(dataclasses.replace(config, robot=spec.replace(guard=off)))
    with pytest.raises(ConfigError, match="at least 1000"):
        FuzzConfig(robot=spec, commands=10)
