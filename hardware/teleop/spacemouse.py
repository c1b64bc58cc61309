"""3Dconnexion's SpaceMouse: six axes and two buttons, as HID reports.

| report | bytes |
|---|---|
| 1 | x, y, z as little-endian int16, +-350; with 12 bytes or more also the three turns |
| 2 | turns about x, y, z, likewise |
| 3 | buttons, one bit each, from the lowest |

The device's x points right, y to the person, z down. The left button toggles the gripper; the right one ends
the episode, or, pressed with the left one held, throws it away.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardware.extras import require
from hardware.teleop.device import Device, Event, Motion
from robopolicy.errors import ConfigError, RobopolicyError
from robopolicy.registry import register

__all__ = ["FULL_SCALE", "SpaceMouse", "SpaceMouseConfig"]

FULL_SCALE = 350.0
_AXES = struct.Struct("<3h")
_VENDORS = {0x256F: range(0x10000), 0x046D: range(0xC603, 0xC62D)}
"""3Dconnexion; and Logitech, which made those sold before, among much else."""
_LEFT, _RIGHT = 1, 2
_REPORT = 64


@dataclass(frozen=True, kw_only=True)
class SpaceMouseConfig:
    """How the device is felt."""

    dead_zone: float = 0.08
    """Deflections below this share of the full one are none."""

    def __post_init__(self) -> None:
        if not 0 <= self.dead_zone < 1:
            raise ConfigError(f"spacemouse.dead_zone must be in [0, 1), got {self.dead_zone}.")


@register("device", "spacemouse")
class SpaceMouse(Device):
    """The first one that is plugged in.

    Args:
        hid: something with `read(size)`, which returns a report as numbers, none if there is none.

    Raises:
        MissingExtra: hidapi is not installed.
        RobopolicyError: no SpaceMouse, or no permission to open it.
    """

    help = "left button: gripper   right: done, keep   both: discard   Ctrl-C: quit"

    def __init__(self, config: SpaceMouseConfig, *, hid: Any = None) -> None:
        self.config = config
        self._hid = _open() if hid is None else hid
        self._axes = np.zeros(6)
        self._buttons = 0

    def read(self) -> Motion:
        """The newest deflection, and the buttons that were pressed since the last call.

        Raises:
            RobopolicyError: the device was unplugged.
        """
        toggle, event = False, ""
        while report := self._next():
            before = self._buttons
            self._take(bytes(report))
            pressed = self._buttons & ~before
            if self._buttons == _LEFT | _RIGHT and pressed:
                toggle, event = False, "discard"
            elif pressed & _RIGHT:
                event = "done"
            elif pressed & _LEFT:
                toggle = not toggle
        felt = np.where(np.abs(self._axes) < self.config.dead_zone, 0.0, self._axes)
        happened: Event = "discard" if event == "discard" else "done" if event == "done" else ""
        return Motion(felt[:3], felt[3:], toggle, happened)

    def close(self) -> None:
        """Let others open it."""
        self._hid.close()

    def _next(self) -> Any:
        try:
            return self._hid.read(_REPORT)
        except OSError as error:
            raise RobopolicyError(f"The SpaceMouse does not answer any more: {error}.") from error

    def _take(self, report: bytes) -> None:
        kind, body = report[0], report[1:]
        if kind == 3 and body:
            self._buttons = body[0] & (_LEFT | _RIGHT)
        elif kind in (1, 2) and len(body) >= _AXES.size:
            start = 3 * (kind - 1)
            self._axes[start : start + 3] = _turned(body)
            if kind == 1 and len(body) >= 2 * _AXES.size:
                self._axes[3:] = _turned(body[_AXES.size :])


def _turned(body: bytes) -> np.ndarray:
    """Three numbers of a report in our axes, of the full deflection."""
    x, y, z = np.clip(np.array(_AXES.unpack_from(body)) / FULL_SCALE, -1.0, 1.0)
    return np.array([-y, -x, -z])


def _open() -> Any:
    hid = require("hid", extra="spacemouse", purpose="device=spacemouse")
    for found in hid.enumerate():
        if found["product_id"] in _VENDORS.get(found["vendor_id"], ()):
            device = hid.device()
            try:
                device.open_path(found["path"])
            except OSError as error:
                raise RobopolicyError(
                    f"The SpaceMouse at {found['path']!r} cannot be opened ({error}). On Linux a udev rule "
                    "gives permission: see docs/teleoperation.md."
                ) from error
            device.set_nonblocking(True)
            return device
    raise RobopolicyError("There is no SpaceMouse: nothing of 3Dconnexion is plugged in.")
