"""Hostile commands for a guard, and an independent look at what it lets through.

The checks share no code with the guard: they recompute every limit from the spec and the robot's model.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from hardware.collision import Shadow
from hardware.guard import Guard
from hardware.guard_speed import speed
from hardware.messages import Command, Observation
from hardware.spec import RobotSpec
from robopolicy.errors import ConfigError, DataError
from robopolicy.evaluation.machine import stamp
from robopolicy.registry import plain

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


@dataclass
class FuzzReport:
    """What a fuzz run saw. `violations` is empty when nothing passed a limit."""

    robot: str
    seed: int
    commands: int = 0
    hostile: dict[str, int] = field(default_factory=dict)
    violations: dict[str, int] = field(default_factory=dict)
    worst: dict[str, float] = field(default_factory=dict)
    """The largest excess over each limit, in its unit; negative is room left."""
    trips: int = 0
    overshoot_rad: float = 0.0
    counters: dict[str, int] = field(default_factory=dict)
    microseconds: dict[str, float] = field(default_factory=dict)

    def note(self, name: str, excess: float, tolerance: float = _TOLERANCE) -> None:
        """Record by how much a limit was passed."""
        self.worst[name] = max(self.worst.get(name, -np.inf), excess)
        if not excess <= tolerance:
            self.violations[name] = self.violations.get(name, 0) + 1


@dataclass(frozen=True, kw_only=True)
class FuzzConfig:
    """What `run_fuzz` does."""

    robot: RobotSpec
    commands: int = 1_000_000
    seed: int = 0
    stall_noise: float = 0.0
    """Deviation of the positions measured after a stall, rad. The guard brakes the measured motion then;
    noise may make it one that cannot be braked in the room there is, and accelerations are exceeded."""
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
    what = "speed" if config.speed else "fuzz_noisy_stalls" if config.stall_noise else "fuzz"
    path = Path(config.out) / f"guard_{what}_{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if config.speed:
        taken = speed(config.robot, commands=config.commands, seed=config.seed)
        path.write_text(json.dumps({**taken, **stamp()}, indent=2) + "\n")
        return f"{name}: {taken['microseconds']} microseconds a command. {path}"
    report = fuzz(config.robot, commands=config.commands, seed=config.seed, stall_noise=config.stall_noise)
    found = {**plain(report), "stall_noise": config.stall_noise, **stamp()}
    path.write_text(json.dumps(found, indent=2) + "\n")
    if report.violations:
        raise DataError(f"{name}: limits were passed: {report.violations}. See {path}.")
    return f"{name}: {report.commands} commands, {report.trips} trips, no limit was passed. {path}"


def fuzz(
    spec: RobotSpec, *, commands: int, seed: int = 0, hostile_share: float = 0.05, stall_noise: float = 0.0
) -> FuzzReport:
    """Send a guard smooth motions, jumps beyond every limit and malformed commands; check what comes out."""
    return _Fuzz(spec, seed, hostile_share, stall_noise).run(commands)


class _Fuzz:
    def __init__(self, spec: RobotSpec, seed: int, hostile_share: float, stall_noise: float) -> None:
        self.spec, self.share, self.stall_noise = spec, hostile_share, stall_noise
        self.rng = np.random.default_rng(seed)
        self.guard = Guard(spec)
        self.report = FuzzReport(robot=spec.name, seed=seed)
        self.n, self.dt = spec.size, 1.0 / spec.control_hz
        config = spec.guard
        self.lower = spec.array("lower") + config.position_margin
        self.upper = spec.array("upper") - config.position_margin
        self.vel = config.velocity_fraction * spec.array("vel")
        self.acc = config.acceleration_fraction * spec.array("acc")
        self.model = Shadow(spec).model if spec.model else None
        if self.model is not None:
            self.data = mujoco.MjData(self.model)
            self.address = [int(self.model.joint(name).qposadr[0]) for name in spec.names]
            self.sites = [int(self.model.site(name).id) for name in spec.end_effectors]
        self.now, self.seq = 1_000_000_000, 0
        self.home = np.clip(spec.array("home"), self.lower, self.upper)
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
                self.q, self.dq = self.measured.q, np.clip(self.measured.dq, -self.vel, self.vel)
                self._look_around()
            self._check(sent, kind)
            if self.guard.latched:
                self._check_latch()
        report.commands = commands
        report.overshoot_rad = self.guard.overshoot
        report.counters = dict(self.guard.counters)
        report.microseconds = {f"p{p}": round(float(np.percentile(times, p)) / 1e3, 1) for p in (50, 90, 99)}
        return report

    def _begin(self, q: np.ndarray) -> None:
        self.q, self.dq = q.copy(), np.zeros(self.n)
        self._look_around()
        self.gripper: float | None = None
        self.measured: Observation = self._observation(noise=0.0)
        self.guard.begin(self.measured, self.now)

    def _look_around(self) -> None:
        """Where the robot is before it is moved: what is exceeded there already may stay so."""
        self.ee = self._place(self.q)
        self.excess = self._excess()
        self.beyond = max(0.0, float(np.maximum(self.lower - self.q, self.q - self.upper).max()))

    def _observation(self, noise: float = 1e-4) -> Observation:
        self.seq += 1
        error = noise * self.rng.standard_normal(self.n)
        return Observation(
            seq=self.seq, t_ns=self.now, q=self.q + error, dq=self.dq + 10 * error, tau=np.zeros(self.n)
        )

    def _target(self) -> np.ndarray:
        rng = self.rng
        span = self.upper - self.lower
        choice = rng.random()
        if choice < 0.4:  # beyond the limits, jointwise
            return np.where(rng.random(self.n) < 0.5, self.lower - span, self.upper + span)
        if choice < 0.6:
            return self.lower + span * rng.random(self.n)
        if choice < 0.8:
            return self.home + 0.3 * rng.standard_normal(self.n)
        if choice < 0.9:
            return np.where(rng.random(self.n) < 0.1, 1e6 * rng.standard_normal(self.n), self.q)
        return self.home.copy()

    def _make(self, kind: str, target: np.ndarray) -> tuple[Command | None, Observation | None]:
        rng, spec, now = self.rng, self.spec, self.now
        observation: Observation | None = self._observation(self.stall_noise if kind == "stall" else 1e-4)
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
        spec, config, note = self.spec, self.spec.guard, self.report.note
        q, limp = sent.q, bool(self.guard.latched) and self.guard.stop_mode != "hold"
        if q is None or q.shape != (self.n,) or not np.isfinite(q).all():
            note("finite", np.inf)
            return
        if limp:
            self._check_damping(sent)
            return
        dq = (q - self.q) / self.dt
        note("position_rad", float(np.maximum(self.lower - q, q - self.upper).max()) - self.beyond)
        note("velocity_rad_s", float((np.abs(dq) - self.vel).max()))
        note("acceleration_rad_s2", float((np.abs(dq - self.dq) / self.dt - self.acc).max()), 1e-6)
        if kind in _IGNORED or "order" in sent.reasons:
            note("moves_on_bad_command_rad_s", float((np.abs(dq) - np.abs(self.dq)).max()))
        if self.model is not None:
            ee = self._place(q)
            if self.sites:
                speed = np.linalg.norm(ee - self.ee, axis=1).max() / self.dt
                note("ee_speed_m_s", float(speed - config.max_ee_speed))
            outside, inside = self._excess()
            note("workspace_m", outside - self.excess[0])
            note("distance_m", inside - self.excess[1])
            self.ee = ee
        if spec.gripper and sent.gripper is not None:
            note("gripper_m", max(spec.gripper.lower - sent.gripper, sent.gripper - spec.gripper.upper))
            if self.gripper is not None:
                note("gripper_m_s", abs(sent.gripper - self.gripper) / self.dt - spec.gripper.vel)
            self.gripper = sent.gripper
        if sent.base is not None and spec.base is not None:
            note("base", float((np.abs(sent.base) - np.array(spec.base.vel)).max()))
        note("weight", max(-sent.weight, sent.weight - 1.0))
        self.q, self.dq = q, dq
        self._check_torque(sent)

    def _check_damping(self, sent: Command) -> None:
        """Nothing holds the robot and nothing pushes it, however fast it moves."""
        if sent.kp is None or sent.kd is None or sent.tau_ff is None:
            self.report.note("damping", np.inf)
            return
        pushed = max(float(np.abs(sent.kp).max()), float(np.abs(sent.tau_ff).max()))
        self.report.note("damping", max(pushed, 2.0 - sent.kd.min(), sent.kd.max() - self.spec.damping))

    def _check_torque(self, sent: Command) -> None:
        if self.spec.interface != "impedance":
            return
        arrays = (sent.q, sent.dq, sent.kp, sent.kd, sent.tau_ff)
        if any(a is None or not np.isfinite(a).all() for a in arrays):
            self.report.note("finite", np.inf)
            return
        q, dq, kp, kd, tau = (np.asarray(a) for a in arrays)
        measured = self.measured
        if measured.q.shape != (self.n,) or not np.isfinite(measured.dq).all():
            return
        if measured.t_ns == self.now and "stale_observation" not in sent.reasons:
            total = kp * (q - measured.q) + kd * (dq - measured.dq) + tau
            self.report.note("torque_nm", float((np.abs(total) - self.spec.array("effort")).max()))
        most = self.spec.array("kp")
        self.report.note("gains", float(max((kp - most).max(), -kp.min(), -kd.min())))

    def _check_latch(self) -> None:
        """A latched guard does not move again for any good command; then an operator clears it."""
        self.report.trips += 1
        for _ in range(3):
            self.now += self.spec.period_ns
            before = np.abs(self.dq).max()
            command, observation = self._make("", self.home)
            sent = self.guard.filter(command, observation, self.now)
            self._check(sent, "")
            released = not self.guard.latched or "latched" not in sent.reasons
            faster = self.guard.stop_mode == "hold" and np.abs(self.dq).max() > before + _TOLERANCE
            stiff = self.guard.stop_mode != "hold" and sent.kp is not None and bool(sent.kp.any())
            self.report.note("latch", 1.0 if released or faster or stiff else 0.0)
        self.guard.clear()
        self._begin(self.q)
        self.guard.start_ramp(self.now - round(1e9 * self.spec.guard.start_ramp_s))

    def _place(self, q: np.ndarray) -> np.ndarray:
        if self.model is None:
            return np.zeros((0, 3))
        self.data.qpos[self.address] = q
        mujoco.mj_kinematics(self.model, self.data)
        return self.data.site_xpos[self.sites]

    def _excess(self) -> tuple[float, float]:
        """How far outside the workspace, and how much closer than the margin, `_place` put the robot."""
        if self.model is None:
            return 0.0, 0.0
        spec, config, data = self.spec, self.spec.guard, self.data
        outside = 0.0
        if spec.workspace is not None:
            ee = data.site_xpos[self.sites]
            low, high = np.array(spec.workspace.low), np.array(spec.workspace.high)
            outside = max(0.0, float(np.maximum(low - ee, ee - high).max()))
        mujoco.mj_collision(self.model, data)
        if not data.ncon:
            return outside, 0.0
        fixed = (self.model.geom_bodyid[data.contact.geom] == 0).any(axis=1)
        margin = np.where(fixed, config.obstacle_margin, config.collision_margin)
        return outside, max(0.0, float((margin - data.contact.dist).max()))
