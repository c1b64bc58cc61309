"""Hostile commands for a guard: not finite, out of date, of another shape, far beyond every limit."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardware.fuzz_checks import FuzzReport, Limits
from hardware.guard import Guard
from hardware.guard_speed import speed
from hardware.messages import Command, Observation
from hardware.spec import RobotSpec
from robopolicy.errors import ConfigError, DataError
from robopolicy.evaluation.machine import stamp
from robopolicy.registry import plain

__all__ = ["HOSTILE", "FuzzConfig", "fuzz", "run_fuzz"]

HOSTILE = (
    "nan",
    "inf",
    "huge",
    "denormal",
    "short",
    "matrix",
    "text",
    "complex",
    "none",
    "stale",
    "expired",
    "future",
    "regress",
    "gains",
    "torque",
    "gripper",
    "base",
    "weight",
    "no_observation",
    "old_observation",
    "nan_observation",
    "short_observation",
    "stall",
)
_IGNORED = {"nan", "inf", "short", "matrix", "text", "complex", "none", "stale", "expired", "future"}
_IGNORED |= {"no_observation", "old_observation", "nan_observation", "short_observation"}
_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class FuzzConfig:
    """What `run_fuzz` does."""

    robot: RobotSpec
    commands: int = 1_000_000
    seed: int = 0
    speed: bool = False
    """Measure how long the guard takes for ordinary commands instead."""
    out: str = "results/checks"

    def __post_init__(self) -> None:
        if self.commands < 1000:
            raise ConfigError(f"fuzz_guard: commands must be at least 1000, got {self.commands}.")


def run_fuzz(config: FuzzConfig) -> str:
    """Fuzz or time a robot's guard, write ``<out>/guard_<what>_<robot>.json`` and say what came out.

    Raises:
        DataError: a limit was passed; names it.
    """
    name = config.robot.name
    what = "speed" if config.speed else "fuzz"
    path = Path(config.out) / f"guard_{what}_{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if config.speed:
        taken = speed(config.robot, commands=config.commands, seed=config.seed)
        path.write_text(json.dumps({**taken, **stamp()}, indent=2) + "\n")
        return f"{name}: {taken['microseconds']} microseconds a command. {path}"
    report = fuzz(config.robot, commands=config.commands, seed=config.seed)
    path.write_text(json.dumps({**plain(report), **stamp()}, indent=2) + "\n")
    if report.violations:
        raise DataError(f"{name}: limits were passed: {report.violations}. See {path}.")
    return f"{name}: {report.commands} commands, {report.trips} trips, no limit was passed. {path}"


def fuzz(spec: RobotSpec, *, commands: int, seed: int = 0, hostile_share: float = 0.05) -> FuzzReport:
    """Send a guard smooth motions, jumps beyond every limit and malformed commands; check what comes out."""
    return _Fuzz(spec, seed, hostile_share).run(commands)


class _Fuzz:
    def __init__(self, spec: RobotSpec, seed: int, hostile_share: float) -> None:
        self.spec, self.share = spec, hostile_share
        self.rng = np.random.default_rng(seed)
        self.guard = Guard(spec)
        self.report = FuzzReport(robot=spec.name, seed=seed)
        self.limits = Limits(spec, self.report)
        self.n = spec.size
        self.now, self.seq = 1_000_000_000, 0
        self.home = np.clip(spec.array("home"), self.limits.lower, self.limits.upper)
        self._begin(self.home)

    def run(self, commands: int) -> FuzzReport:
        spec, rng, report = self.spec, self.rng, self.report
        times = np.empty(commands)
        target, left = self.home, 0
        for index in range(commands):
            if left == 0:
                target, left = self._target(), int(rng.integers(20, 400))
            left -= 1
            kind = str(rng.choice(HOSTILE)) if rng.random() < self.share else ""
            if kind:
                report.hostile[kind] = report.hostile.get(kind, 0) + 1
            self.now += 2 * spec.cmd_timeout_ns if kind == "stall" else spec.period_ns
            command, observation = self._make(kind, target)
            begun = time.perf_counter_ns()
            sent = self.guard.filter(command, observation, self.now)
            times[index] = time.perf_counter_ns() - begun
            if kind == "stall":  # the guard goes on from where the robot is, and so does this
                self.limits.start(self.measured.q, self.measured.dq)
                report.beyond_after_stall_rad = max(report.beyond_after_stall_rad, self.limits.beyond)
            self._check(sent, kind)
            if self.guard.latched:
                self._check_latch()
        report.commands = commands
        report.overshoot_rad = self.guard.overshoot
        report.counters = dict(self.guard.counters)
        report.microseconds = {f"p{p}": round(float(np.percentile(times, p)) / 1e3, 1) for p in (50, 90, 99)}
        return report

    def _begin(self, q: np.ndarray) -> None:
        self.limits.start(q, np.zeros(self.n))
        self.limits.gripper = None
        self.measured: Observation = self._observation(noise=0.0)
        self.guard.begin(self.measured, self.now)

    def _observation(self, noise: float = 1e-4) -> Observation:
        self.seq += 1
        error = noise * self.rng.standard_normal(self.n)
        q, dq = self.limits.q + error, self.limits.dq + 10 * error
        return Observation(seq=self.seq, t_ns=self.now, q=q, dq=dq, tau=np.zeros(self.n))

    def _target(self) -> np.ndarray:
        rng, lower, upper = self.rng, self.limits.lower, self.limits.upper
        span = upper - lower
        choice = rng.random()
        if choice < 0.4:  # beyond the limits, jointwise
            return np.where(rng.random(self.n) < 0.5, lower - span, upper + span)
        if choice < 0.6:
            return lower + span * rng.random(self.n)
        if choice < 0.8:
            return self.home + 0.3 * rng.standard_normal(self.n)
        if choice < 0.9:
            return np.where(rng.random(self.n) < 0.1, 1e6 * rng.standard_normal(self.n), self.limits.q)
        return self.home.copy()

    def _make(self, kind: str, target: np.ndarray) -> tuple[Command | None, Observation | None]:
        rng, spec, now = self.rng, self.spec, self.now
        observation: Observation | None = self._observation()
        assert observation is not None
        self.measured = observation
        q: Any = target if rng.random() < 0.5 else target + 0.05 * rng.standard_normal(self.n)
        command = Command(t_ns=now, valid_until_ns=now + spec.period_ns, q=q)
        index = int(rng.integers(self.n))
        bad = {"nan": np.nan, "inf": rng.choice([-np.inf, np.inf]), "huge": 1e300, "denormal": 5e-324}
        if kind in bad:
            command.q = np.array(q)
            command.q[index] = bad[kind]
        elif kind in ("short", "matrix", "text", "complex"):
            wrong: dict[str, Any] = {
                "short": q[:-1],
                "matrix": q[None],
                "text": ["q"] * self.n,
                "complex": q + 1j,
            }
            command.q = wrong[kind]
        elif kind == "none":
            return None, observation
        elif kind in ("stale", "future"):
            command.t_ns += round(1e9 * spec.cmd_timeout_s * (-1.5 if kind == "stale" else 1.5))
        elif kind == "expired":
            command.valid_until_ns = now - 1
        elif kind == "regress":
            command.t_ns -= 2 * spec.period_ns
        elif kind == "gains":
            command.kp = rng.choice([-1e3, 0.0, 1e9, np.nan], self.n)
            command.kd = rng.choice([-1e3, 0.0, 1e9], self.n)
        elif kind == "torque":
            command.tau_ff = 1e4 * rng.standard_normal(self.n)
        elif kind == "gripper":
            command.gripper = float(rng.choice([np.nan, np.inf, -1.0, 1.0]))
        elif kind == "base":
            command.base = rng.choice([np.nan, 1e9, -1e9], 3)
        elif kind == "weight":
            command.weight = float(rng.choice([np.nan, -1.0, 1e9]))
        elif kind == "no_observation":
            return command, None
        elif kind == "old_observation":
            observation.t_ns -= round(1.5e9 * spec.obs_timeout_s)
        elif kind == "nan_observation":
            observation.dq[index] = np.nan
        elif kind == "short_observation":
            observation.q = observation.q[:-1]
        return command, observation

    def _check(self, sent: Command, kind: str) -> None:
        measured = self.measured
        seen = measured.q.shape == (self.n,) and bool(np.isfinite(measured.dq).all())
        fresh = measured.t_ns == self.now and "stale_observation" not in sent.reasons
        self.limits.check(
            sent,
            limp=bool(self.guard.latched) and self.guard.stop_mode != "hold",
            ignored=kind in _IGNORED or "order" in sent.reasons,
            measured=measured if seen and fresh else None,
        )

    def _check_latch(self) -> None:
        """A latched guard does not move again for any good command; then an operator clears it."""
        self.report.trips += 1
        for _ in range(3):
            self.now += self.spec.period_ns
            before = np.abs(self.limits.dq).max()
            command, observation = self._make("", self.home)
            sent = self.guard.filter(command, observation, self.now)
            self._check(sent, "")
            released = not self.guard.latched or "latched" not in sent.reasons
            faster = self.guard.stop_mode == "hold" and np.abs(self.limits.dq).max() > before + _TOLERANCE
            stiff = self.guard.stop_mode != "hold" and sent.kp is not None and bool(sent.kp.any())
            self.report.note("latch", 1.0 if released or faster or stiff else 0.0)
        self.guard.clear()
        self._begin(self.limits.q)
        self.guard.start_ramp(self.now - round(1e9 * self.spec.guard.start_ramp_s))
