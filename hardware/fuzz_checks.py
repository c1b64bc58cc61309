"""An independent look at what a guard lets through.

Shares no code with the guard: every limit is recomputed from the spec and the robot's model.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import mujoco
import numpy as np

from hardware.collision import Shadow
from hardware.messages import Command, Observation
from hardware.spec import RobotSpec

__all__ = ["FuzzReport", "Limits"]

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
    """The most that braking would have passed a position limit by before the position was cut."""
    beyond_after_stall_rad: float = 0.0
    """How far the margins to the position limits were used for braking motions that were measured, with
    noise, after a stall."""
    counters: dict[str, int] = field(default_factory=dict)
    microseconds: dict[str, float] = field(default_factory=dict)

    def note(self, name: str, excess: float, tolerance: float = _TOLERANCE) -> None:
        """Record by how much a limit was passed."""
        self.worst[name] = max(self.worst.get(name, -np.inf), excess)
        if not excess <= tolerance:
            self.violations[name] = self.violations.get(name, 0) + 1


class Limits:
    """Follows a robot that does what is sent, and notes in a report what passes a limit."""

    def __init__(self, spec: RobotSpec, report: FuzzReport) -> None:
        self.spec, self.report = spec, report
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
        self.gripper: float | None = None
        self.start(spec.array("home"), np.zeros(self.n))

    def start(self, q: np.ndarray, dq: np.ndarray) -> None:
        """Where the robot is before it is moved: what is exceeded there already may stay so."""
        self.q, self.dq = q.copy(), np.clip(dq, -self.vel, self.vel)
        self.ee = self._place(self.q)
        self.excess = self._excess()
        end, v = self.q.copy(), self.dq.copy()
        while v.any():  # a motion that is under way can end no sooner than braking does
            v = np.sign(v) * np.maximum(np.abs(v) - self.acc * self.dt, 0.0)
            end += v * self.dt
        self.beyond = max(0.0, float(np.maximum(self.lower - end, end - self.upper).max()))

    def check(self, sent: Command, *, limp: bool, ignored: bool, measured: Observation | None = None) -> None:
        """Look at what was sent.

        Args:
            limp: nothing may hold the robot or push it.
            ignored: the command was one that must not speed the robot up.
            measured: what the guard saw when it sent this, if it was good; for torques.
        """
        spec, config, note = self.spec, self.spec.guard, self.report.note
        q = sent.q
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
        if ignored:
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
        self._check_torque(sent, measured)

    def _check_damping(self, sent: Command) -> None:
        """Nothing holds the robot and nothing pushes it, however fast it moves."""
        if sent.kp is None or sent.kd is None or sent.tau_ff is None:
            self.report.note("damping", np.inf)
            return
        pushed = max(float(np.abs(sent.kp).max()), float(np.abs(sent.tau_ff).max()))
        self.report.note("damping", max(pushed, 2.0 - sent.kd.min(), sent.kd.max() - self.spec.damping))

    def _check_torque(self, sent: Command, measured: Observation | None) -> None:
        if self.spec.interface != "impedance":
            return
        arrays = (sent.q, sent.dq, sent.kp, sent.kd, sent.tau_ff)
        if any(a is None or not np.isfinite(a).all() for a in arrays):
            self.report.note("finite", np.inf)
            return
        q, dq, kp, kd, tau = (np.asarray(a) for a in arrays)
        if measured is not None:
            total = kp * (q - measured.q) + kd * (dq - measured.dq) + tau
            self.report.note("torque_nm", float((np.abs(total) - self.spec.array("effort")).max()))
        most = self.spec.array("kp")
        self.report.note("gains", float(max((kp - most).max(), -kp.min(), -kd.min())))

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
