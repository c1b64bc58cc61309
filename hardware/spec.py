"""What a robot is: joints by name, limits, rates, timeouts, what stopping means. See ``configs/robot``."""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from robopolicy.errors import ConfigError, unknown
from robopolicy.registry import parse, plain

__all__ = [
    "CHECKS",
    "JOINT_FIELDS",
    "BaseSpec",
    "Box",
    "CheckMode",
    "GripperSpec",
    "GuardConfig",
    "Interface",
    "JointSpec",
    "LifeState",
    "RobotSpec",
    "StopMode",
]

StopMode = Literal["hold", "damp", "disable"]
"""hold: brake at the acceleration limit and keep the position. damp: gains 0, joint damping only, for robots
that must not be stiff. disable: no torque at all, only ever by an operator."""
CheckMode = Literal["off", "warn", "clamp", "trip"]
Interface = Literal["position", "impedance"]
CHECKS = (
    "finite",
    "freshness",
    "position",
    "velocity",
    "acceleration",
    "torque",
    "step",
    "cartesian_speed",
    "workspace",
    "collision",
    "tracking",
)
JOINT_FIELDS = ("lower", "upper", "vel", "acc", "effort", "home", "kp", "kd")


class LifeState(enum.IntEnum):
    """Where a robot is in its life. The last two need `Robot.clear`."""

    DISCONNECTED = 0
    READ_ONLY = 1
    ARMING = 2
    RUNNING = 3
    HOLD = 4
    DAMPED = 5
    FAULT = 6


@dataclass(frozen=True, kw_only=True)
class JointSpec:
    """One joint, with the vendor's limits; the margins that the guard keeps are in `GuardConfig`."""

    name: str
    lower: float
    upper: float
    vel: float
    acc: float
    effort: float
    home: float = 0.0
    kp: float = 0.0
    """Default gain and the largest that is ever sent (impedance robots)."""
    kd: float = 0.0

    def __post_init__(self) -> None:
        if not self.lower < self.upper:
            raise ConfigError(f"joint {self.name}: lower < upper is needed, got {self.lower}, {self.upper}.")
        if not self.lower <= self.home <= self.upper:
            raise ConfigError(f"joint {self.name}: home {self.home} is outside [{self.lower}, {self.upper}].")
        for name in ("vel", "acc", "effort"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"joint {self.name}: {name} must be positive, got {getattr(self, name)}.")
        if self.kp < 0 or self.kd < 0:
            raise ConfigError(f"joint {self.name}: gains must be >= 0, got kp={self.kp}, kd={self.kd}.")


@dataclass(frozen=True, kw_only=True)
class GripperSpec:
    """A parallel gripper: opening in metres."""

    lower: float = 0.0
    upper: float = 0.08
    vel: float = 0.1

    def __post_init__(self) -> None:
        if not (self.lower < self.upper and self.vel > 0):
            raise ConfigError(f"gripper: lower < upper and vel > 0 are needed, got {self}.")


@dataclass(frozen=True, kw_only=True)
class BaseSpec:
    """Limits of a base that walks or rolls by itself: forward, left (m/s), yaw (rad/s)."""

    vel: tuple[float, ...] = (0.6, 0.3, 0.8)
    acc: tuple[float, ...] = (1.0, 1.0, 2.0)

    def __post_init__(self) -> None:
        if len(self.vel) != 3 or len(self.acc) != 3 or min(*self.vel, *self.acc) <= 0:
            raise ConfigError(f"base: vel and acc are three positive numbers each, got {self}.")


@dataclass(frozen=True, kw_only=True)
class Box:
    """An axis-aligned box in the world frame of the robot's model, metres."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if not (len(self.low) == len(self.high) == 3):
            raise ConfigError(f"A box has three lows and three highs, got {self.low}, {self.high}.")
        if any(not low < high for low, high in zip(self.low, self.high, strict=True)):
            raise ConfigError(f"A box needs low < high, got low={self.low}, high={self.high}.")


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """What the guard checks, how strictly, and the margins it keeps.

    off: not looked at. warn: counted. clamp: the nearest allowed command is sent. trip: as clamp, and latched
    until an operator clears it. Numbers that are not finite, wrong shapes and a latch cannot be let through.
    """

    finite: CheckMode = "trip"
    freshness: CheckMode = "clamp"
    position: CheckMode = "clamp"
    velocity: CheckMode = "clamp"
    acceleration: CheckMode = "clamp"
    torque: CheckMode = "clamp"
    step: CheckMode = "off"
    """A target further than `step_factor * vel * dt` from the last one sent. Velocity clamps it anyway;
    "trip" is for controllers whose targets come at the control rate."""
    cartesian_speed: CheckMode = "clamp"
    workspace: CheckMode = "clamp"
    collision: CheckMode = "clamp"
    tracking: CheckMode = "trip"
    """Measured position away from what was sent, or measured velocity over the limit: trips or is counted."""
    position_margin: float = 0.1
    """rad, kept from the vendor's limits."""
    velocity_fraction: float = 0.9
    acceleration_fraction: float = 0.9
    """Share of the vendor's limits that commands may use."""
    start_ramp_s: float = 2.0
    """After arming the velocity limit grows from a tenth to all of it over this time."""
    step_factor: float = 10.0
    max_ee_speed: float = 0.25
    """m/s, every end effector."""
    collision_margin: float = 0.02
    """m between two bodies of the robot."""
    obstacle_margin: float = 0.002
    """m between a body and an obstacle."""
    tracking_error: float = 0.5
    """rad between measured and sent position."""
    measured_velocity_factor: float = 1.5
    """Measured speed over the vendor's limit times this trips."""
    rejected_per_window: int = 20
    """Corrupt or out-of-order messages within `reject_window_s` that trip."""
    reject_window_s: float = 1.0

    def __post_init__(self) -> None:
        for name in ("finite", "freshness"):
            if getattr(self, name) not in ("clamp", "trip"):
                raise ConfigError(f"guard.{name} is never off: choose clamp or trip.")
        for name in ("tracking", "step"):
            if getattr(self, name) == "clamp":
                raise ConfigError(f"guard.{name} has nothing to clamp: choose off, warn or trip.")
        for name in ("velocity_fraction", "acceleration_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"guard.{name} must be in (0, 1], got {getattr(self, name)}.")
        for name in ("position_margin", "start_ramp_s", "collision_margin", "obstacle_margin"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"guard.{name} must be >= 0, got {getattr(self, name)}.")
        for name in ("step_factor", "max_ee_speed", "tracking_error", "measured_velocity_factor"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"guard.{name} must be positive, got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class RobotSpec:
    """One robot. `load` reads it from its yaml."""

    name: str
    driver: Mapping[str, Any]
    """``{"name": registered driver, **its config}``."""
    joints: tuple[JointSpec, ...]
    control_hz: float
    interface: Interface = "position"
    """position: the robot follows positions. impedance: it takes positions, gains and torques every tick."""
    real: bool = True
    """Deployment asks for a hardware emergency stop unless this is false."""
    stop: StopMode = "hold"
    """What staleness, a fault and closing lead to."""
    cmd_timeout_s: float = 0.1
    """A command older than this is stale."""
    obs_timeout_s: float = 0.1
    policy_timeout_s: float = 0.5
    """Without a sign of life from the policy for this long, its chunks are stale."""
    damping: float = 8.0
    """kd while damped, N m s/rad, at most."""
    arm_ramp_s: float = 2.0
    gripper: GripperSpec | None = None
    base: BaseSpec | None = None
    model: str = ""
    """MJCF of the shadow model: among those in ``hardware/assets`` and ``envs/assets``, a path, or a name
    without ".xml" for the providers of `hardware.models`. None: no checks in space."""
    end_effectors: tuple[str, ...] = ()
    """Sites of the model."""
    workspace: Box | None = None
    """Every end effector stays inside."""
    obstacles: tuple[Box, ...] = ()
    """Added to the shadow model: tables, walls."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    command_map: Mapping[str, Any] = field(default_factory=dict)
    """How a policy's decoded action becomes joint waypoints: see `hardware.command_map`."""
    observations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What a policy's observation keys are made of: see `hardware.observe`."""
    latency_s: Mapping[str, float] = field(default_factory=dict)
    """Of streams whose stamps are later than what they show: by how much, by name."""
    simulator: str = ""
    """Module that simulates this robot on its own wire; deployment starts it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "driver", dict(self.driver))
        object.__setattr__(self, "command_map", dict(self.command_map))
        object.__setattr__(self, "observations", {k: tuple(v) for k, v in self.observations.items()})
        object.__setattr__(self, "latency_s", dict(self.latency_s))
        if "name" not in self.driver:
            raise ConfigError(f"robot {self.name}: driver needs a 'name'.")
        names = self.names
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"robot {self.name}: joints need different names, got {list(names)}.")
        for name in ("control_hz", "cmd_timeout_s", "obs_timeout_s", "policy_timeout_s", "arm_ramp_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"robot {self.name}: {name} must be positive, got {getattr(self, name)}.")
        if self.stop == "disable":
            raise ConfigError(f"robot {self.name}: stop is hold or damp; disabling is for operators.")
        if self.stop == "damp" and self.interface == "position":
            raise ConfigError(f"robot {self.name}: stop=damp needs interface=impedance.")
        if self.simulator and self.real:
            raise ConfigError(f"robot {self.name}: one with a simulator has real: false.")
        if self.workspace and not self.end_effectors:
            raise ConfigError(f"robot {self.name}: a workspace needs end_effectors.")
        if (self.end_effectors or self.obstacles) and not self.model:
            raise ConfigError(f"robot {self.name}: end_effectors and obstacles need a model.")
        for joint in self.joints:
            if joint.upper - joint.lower <= 2 * self.guard.position_margin:
                raise ConfigError(
                    f"robot {self.name}: joint {joint.name} ranges over {joint.upper - joint.lower:.3f} rad; "
                    f"a margin of {self.guard.position_margin} on each side leaves nothing."
                )

    @property
    def size(self) -> int:
        """n, the number of joints."""
        return len(self.joints)

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Joint names, in the order of every array."""
        return tuple(joint.name for joint in self.joints)

    @property
    def period_ns(self) -> int:
        """One control tick."""
        return round(1e9 / self.control_hz)

    @property
    def cmd_timeout_ns(self) -> int:
        """`cmd_timeout_s` in nanoseconds."""
        return round(1e9 * self.cmd_timeout_s)

    @property
    def obs_timeout_ns(self) -> int:
        """`obs_timeout_s` in nanoseconds."""
        return round(1e9 * self.obs_timeout_s)

    def array(self, name: str) -> np.ndarray:
        """One number a joint, float64 `[n]`: lower, upper, vel, acc, effort, home, kp or kd.

        Raises:
            ConfigError: another name.
        """
        if name not in JOINT_FIELDS:
            raise ConfigError(unknown("joint field", name, JOINT_FIELDS))
        return np.array([getattr(joint, name) for joint in self.joints], dtype=np.float64)

    def index(self, name: str) -> int:
        """Position of a joint in every array.

        Raises:
            ConfigError: unknown joint; lists the names.
        """
        if name not in self.names:
            raise ConfigError(unknown(f"joint of {self.name}", name, self.names))
        return self.names.index(name)

    def replace(self, **changes: Any) -> RobotSpec:
        """The same robot with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` reads it back."""
        return plain(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RobotSpec:
        """Read what `to_dict` wrote, or a yaml of ``configs/robot``."""
        return parse(cls, values, where=f"robot={values.get('name', '?')}")

    @classmethod
    def load(cls, name: str | Path) -> RobotSpec:
        """The robot of ``configs/robot/<name>.yaml``, or of a yaml file.

        Raises:
            ConfigError: no such robot (lists the known ones), or a value that cannot work.
        """
        directory = _config_directory()
        path = Path(name) if str(name).endswith((".yaml", ".yml")) else directory / f"{name}.yaml"
        if not path.is_file():
            raise ConfigError(unknown("robot", str(name), (p.stem for p in directory.glob("*.yaml"))))
        return cls.from_dict(yaml.safe_load(path.read_text()))


def _config_directory() -> Path:
    import robopolicy

    package = Path(robopolicy.__file__).resolve().parent
    inside = package / "configs" / "robot"
    return inside if inside.is_dir() else package.parent / "configs" / "robot"
