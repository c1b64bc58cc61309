"""Any lerobot `Robot` behind the guard: its `connect`, `get_observation`, `send_action` and `disconnect`.

lerobot has names, degrees or shares of a calibrated range, and no times; `channels` say what each joint is in
radians. Its calls wait for a bus and cameras, so they have a thread of their own, which sends every guarded
command once: when commands stop, nothing is repeated, and position servos hold the last one. Reading that
takes longer than `obs_timeout_s` makes the guard brake.

lerobot's `max_relative_target` would be a second guard that this one does not know: leave it out. Its
`disconnect` takes the torque away unless its settings say ``disable_torque_on_disconnect: false``.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from hardware.extras import require
from hardware.messages import Command, Measured, Observation
from hardware.robot import Robot, RobotError
from hardware.spec import RobotSpec
from robopolicy.errors import ConfigError
from robopolicy.registry import parse, register

__all__ = ["Channel", "Lerobot", "LerobotConfig", "Unit"]

Unit = Literal["radians", "degrees", "normalized", "percent"]
_ENDS: dict[str, tuple[float, float]] = {"normalized": (-100.0, 100.0), "percent": (0.0, 100.0)}
_TROUBLE = (OSError, RuntimeError, ValueError, KeyError)
_JOIN_S = 2.0
_ALTERED = 1e-3


@dataclass(frozen=True, kw_only=True)
class Channel:
    """One number of a lerobot robot, and what it is in radians (metres of opening for a gripper)."""

    key: str
    """In observations and actions, ``shoulder_pan.pos``."""
    unit: Unit = "degrees"
    """normalized: -100 to 100 of the calibrated range; percent: 0 to 100."""
    range: tuple[float, ...] = ()
    """rad or m at the two ends of normalized and percent; in falling order if it counts the other way."""
    offset: float = 0.0
    """rad, where radians and degrees count 0."""
    reverse: bool = False
    """Radians and degrees count the other way."""

    def __post_init__(self) -> None:
        ranged = self.unit in _ENDS
        if ranged and (len(self.range) != 2 or self.range[0] == self.range[1]):
            raise ConfigError(
                f"{self.key}: {self.unit} needs range, two different numbers; got {self.range}."
            )
        if ranged and (self.offset or self.reverse):
            raise ConfigError(f"{self.key}: {self.unit} has a range, so no offset and no reverse.")
        if not ranged and self.range:
            raise ConfigError(f"{self.key}: range is for {' and '.join(_ENDS)}, not {self.unit}.")

    @property
    def line(self) -> tuple[float, float]:
        """Value at 0 and change with each unit."""
        if self.unit in _ENDS:
            (low, high), (first, last) = _ENDS[self.unit], self.range
            slope = (last - first) / (high - low)
            return first - low * slope, slope
        slope = math.pi / 180 if self.unit == "degrees" else 1.0
        return self.offset, -slope if self.reverse else slope


@dataclass(frozen=True, kw_only=True)
class LerobotConfig:
    """Which robot, and what its numbers mean."""

    type: str = ""
    """As lerobot registers it: so101_follower, koch_follower, ..."""
    factory: str = ""
    """Or ``module:function`` of a robot of your own with the same interface, called with `settings`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of lerobot's robot config: port, id, ..."""
    channels: Mapping[str, Any] = field(default_factory=dict)
    """Joint of the yaml to `Channel`."""
    gripper: Channel | None = None

    def __post_init__(self) -> None:
        if self.type and self.factory:
            raise ConfigError("driver lerobot: give type or factory, not both.")
        channels = {
            name: value if isinstance(value, Channel) else parse(Channel, value, f"channels.{name}")
            for name, value in self.channels.items()
        }
        object.__setattr__(self, "settings", dict(self.settings))
        object.__setattr__(self, "channels", channels)


@register("driver", "lerobot")
class Lerobot(Robot):
    """One lerobot robot.

    Args:
        device: the object itself, instead of one made from the config.
    """

    def __init__(self, config: LerobotConfig, *, spec: RobotSpec, device: Any = None, **context: Any) -> None:
        super().__init__(spec, **context)
        self.config = config
        if spec.interface != "position":
            raise ConfigError(f"robot {spec.name}: lerobot takes positions, not interface={spec.interface}.")
        missing = [name for name in spec.names if name not in config.channels]
        if missing or (spec.gripper is not None and config.gripper is None):
            unsaid = ", ".join(missing) or "the gripper"
            raise ConfigError(f"robot {spec.name}: no channel says what {unsaid} is in lerobot.")
        if device is None and not (config.type or config.factory):
            raise ConfigError(f"robot {spec.name}: driver lerobot needs a type or a factory.")
        self._channels: list[Channel] = [config.channels[name] for name in spec.names]
        if spec.gripper is not None and config.gripper is not None:
            self._channels.append(config.gripper)
        self._zero, self._slope = np.array([channel.line for channel in self._channels]).T
        self._device = device
        self._thread: threading.Thread | None = None

    def _open(self, timeout_s: float) -> None:
        if self._device is None:
            self._device = self._make()
        device = self._device
        for features in (device.observation_features, device.action_features):
            missing = [channel.key for channel in self._channels if channel.key not in features]
            if missing:
                raise RobotError(
                    f"{self.spec.name}: lerobot's robot lacks {', '.join(missing)}; "
                    f"it has {', '.join(sorted(features))}."
                )
        shapes = device.observation_features.items()
        self._pictures = [key for key, shape in shapes if isinstance(shape, tuple) and len(shape) == 3]
        try:
            device.connect(calibrate=False)
            if not device.is_calibrated:
                device.disconnect()
                raise RobotError(f"{self.spec.name} is not calibrated: run lerobot-calibrate first.")
        except _TROUBLE as error:
            raise RobotError(f"{self.spec.name} does not answer: {error}") from error
        self._closing, self._wake, self._fresh = threading.Event(), threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._command: dict[str, float] | None = None
        self._read: tuple[int, Mapping[str, Any]] | None = None
        self._before: tuple[int, np.ndarray] | None = None
        self._seq, self._trouble, self._warned = 0, "", False
        self._thread = threading.Thread(target=self._exchange, name=self.spec.name, daemon=True)
        self._thread.start()

    def _receive(self, timeout_s: float) -> Observation | None:
        if self._trouble:
            self._fault(f"lerobot: {self._trouble}")
            return None
        if not self._fresh.wait(timeout_s):
            return None
        with self._lock:
            read, self._read = self._read, None
            self._fresh.clear()
        if read is None:
            return None
        t_ns, found = read
        try:
            raw = np.array([float(found[channel.key]) for channel in self._channels])
        except (KeyError, TypeError, ValueError):
            self._reject("malformed")
            return None
        if not np.isfinite(raw).all():
            self._reject("finite")
            return None
        values, n = self._zero + self._slope * raw, self.spec.size
        dq = np.zeros(n)
        if self._before is not None and t_ns > self._before[0]:
            dq = 1e9 * (values[:n] - self._before[1]) / (t_ns - self._before[0])
        self._before = t_ns, values[:n]
        self._seq += 1
        pictures = {key: np.asarray(found[key], np.uint8) for key in self._pictures if key in found}
        return Observation(
            seq=self._seq,
            t_ns=t_ns,
            q=values[:n],
            dq=dq,
            tau=np.zeros(n),
            gripper=float(values[n]) if self.spec.gripper is not None else None,
            streams={key: Measured(t_ns, picture) for key, picture in pictures.items()},
        )

    def _send(self, command: Command) -> None:
        assert command.q is not None
        values, channels = np.asarray(command.q), self._channels[: self.spec.size]
        if self.spec.gripper is not None and command.gripper is not None:
            values, channels = np.append(values, command.gripper), self._channels
        count = len(channels)
        raw = (values - self._zero[:count]) / self._slope[:count]
        with self._lock:
            self._command = {channel.key: float(v) for channel, v in zip(channels, raw, strict=True)}
        self._wake.set()

    def _close(self) -> None:
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_JOIN_S)
            self._thread = None
        with contextlib.suppress(*_TROUBLE):
            self._device.disconnect()

    def _exchange(self) -> None:
        """Send what is new and read, at the control rate or as fast as the bus is."""
        try:
            while not self._closing.is_set():
                self._wake.wait(1.0 / self.spec.control_hz)
                self._wake.clear()
                with self._lock:
                    command, self._command = self._command, None
                if command is not None:
                    self._compare(command, self._device.send_action(command))
                begun = self._clock()
                found = self._device.get_observation()
                with self._lock:
                    self._read = begun, found
                    self._fresh.set()
        except _TROUBLE as error:
            self._trouble = f"{type(error).__name__}: {error}"
        finally:
            self._trouble = self._trouble or "reading has ended"

    def _compare(self, asked: dict[str, float], sent: Any) -> None:
        """Tell, once, that lerobot sent something else."""
        if self._warned or not isinstance(sent, Mapping):
            return
        altered = [key for key, value in asked.items() if abs(float(sent.get(key, value)) - value) > _ALTERED]
        if altered:
            self._warned = True
            warnings.warn(
                f"{self.spec.name}: lerobot sent something else for {', '.join(altered)}. Leave out "
                "max_relative_target: two limiters fight each other.",
                stacklevel=2,
            )

    def _make(self) -> Any:
        config = self.config
        if config.factory:
            module, _, name = config.factory.partition(":")
            try:
                make = getattr(importlib.import_module(module), name)
            except (ImportError, AttributeError) as error:
                raise ConfigError(f"driver lerobot: there is no {config.factory!r} ({error}).") from error
            return make(**config.settings)
        robots = require("lerobot.robots", extra="lerobot", purpose=f"Robot {self.spec.name}")
        folder = config.type.removeprefix("so100_").removeprefix("so101_")
        with contextlib.suppress(ImportError):  # robots register when their module is imported
            importlib.import_module(
                f"lerobot.robots.{'so_' + folder if folder == 'follower' else config.type}"
            )
        known = robots.RobotConfig.get_known_choices()
        if config.type not in known:
            from robopolicy.errors import unknown

            raise ConfigError(unknown("lerobot robot", config.type, known))
        return robots.make_robot_from_config(known[config.type](**config.settings))
