from __future__ import annotations

import struct
import sys
from typing import Any

import numpy as np
import pytest

from hardware.extras import MissingExtra
from hardware.teleop.device import make_device
from hardware.teleop.spacemouse import SpaceMouse, SpaceMouseConfig
from robopolicy.errors import ConfigError, RobopolicyError


class FakeHid:
    """Gives reports as hidapi does: lists of numbers, empty when there is none."""

    def __init__(self, *reports: bytes) -> None:
        self.reports = [list(report) for report in reports]
        self.closed = False

    def read(self, size: int) -> list[int]:
        return self.reports.pop(0)[:size] if self.reports else []

    def close(self) -> None:
        self.closed = True


def axes(kind: int, *values: int) -> bytes:
    return bytes([kind]) + struct.pack(f"<{len(values)}h", *values)


def buttons(bits: int) -> bytes:
    return bytes([3, bits, 0])


def mouse(*reports: bytes, dead_zone: float = 0.08) -> tuple[SpaceMouse, FakeHid]:
    hid = FakeHid(*reports)
    return SpaceMouse(SpaceMouseConfig(dead_zone=dead_zone), hid=hid), hid


def test_reports_of_three_axes_each() -> None:
    # Right by half, fully to the person, fully down; and a turn of half about the device's z.
    device, _ = mouse(axes(1, 175, 350, 350), axes(2, 0, 0, 175))
    motion = device.read()
    np.testing.assert_allclose(motion.linear, [-1.0, -0.5, -1.0])
    np.testing.assert_allclose(motion.angular, [0.0, 0.0, -0.5])
    assert motion.active


def test_one_report_of_all_six_axes_and_the_last_deflection_holds() -> None:
    device, hid = mouse(axes(1, 0, -350, 0, 350, 0, 0))
    for _ in range(2):
        motion = device.read()
        np.testing.assert_allclose(motion.linear, [1.0, 0.0, 0.0])
        np.testing.assert_allclose(motion.angular, [0.0, -1.0, 0.0])
    hid.reports = [list(axes(1, 0, 0, 0, 0, 0, 0))]
    assert not device.read().active


def test_small_deflections_are_none_and_large_ones_are_full() -> None:
    device, _ = mouse(axes(1, 27, -3000, 36))
    np.testing.assert_allclose(device.read().linear, [1.0, 0.0, -36 / 350])


def test_buttons_count_when_they_go_down() -> None:
    device, hid = mouse(buttons(1), buttons(1))
    assert device.read().toggle_gripper
    assert not device.read().active
    hid.reports = [list(buttons(0)), list(buttons(1)), list(buttons(0)), list(buttons(1))]
    assert not device.read().toggle_gripper  # twice is as it was
    hid.reports = [list(buttons(0)), list(buttons(2))]
    assert device.read().event == "done"
    hid.reports = [list(buttons(0)), list(buttons(1)), list(buttons(3))]
    motion = device.read()
    assert (motion.event, motion.toggle_gripper) == ("discard", False)


def test_short_and_unknown_reports_change_nothing() -> None:
    device, hid = mouse(axes(1, 350, 0, 0), b"\x01\x02", b"\x17\x00\x00\x00", b"\x03")
    np.testing.assert_allclose(device.read().linear, [0.0, -1.0, 0.0])
    device.close()
    assert hid.closed


def test_an_unplugged_device_is_told() -> None:
    device, hid = mouse()

    def gone(size: int) -> list[int]:
        raise OSError("read error")

    hid.read = gone  # type: ignore[method-assign]
    with pytest.raises(RobopolicyError, match="does not answer any more: read error"):
        device.read()


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hid", None)
    with pytest.raises(MissingExtra, match=r"device=spacemouse needs hid.*robopolicy\[spacemouse\]"):
        make_device({"name": "spacemouse"})
    with pytest.raises(ConfigError, match=r"dead_zone must be in \[0, 1\)"):
        SpaceMouseConfig(dead_zone=1.0)


class FakePackage:
    """hidapi's module."""

    def __init__(self, found: list[dict[str, Any]], refuses: bool = False) -> None:
        self.found, self.refuses = found, refuses
        self.opened: list[bytes] = []

    def enumerate(self) -> list[dict[str, Any]]:
        return self.found

    def device(self) -> FakePackage:
        return self

    def open_path(self, path: bytes) -> None:
        if self.refuses:
            raise OSError("open failed")
        self.opened.append(path)

    def set_nonblocking(self, on: bool) -> None:
        assert on


def test_the_right_device_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    mice = [
        {"vendor_id": 0x046D, "product_id": 0xC52B, "path": b"a receiver of Logitech"},
        {"vendor_id": 0x046D, "product_id": 0xC626, "path": b"a SpaceNavigator"},
        {"vendor_id": 0x256F, "product_id": 0xC635, "path": b"a SpaceMouse Compact"},
    ]
    for found, opened in ((mice, b"a SpaceNavigator"), (mice[2:], b"a SpaceMouse Compact")):
        package = FakePackage(found)
        monkeypatch.setitem(sys.modules, "hid", package)
        make_device({"name": "spacemouse"})
        assert package.opened == [opened]
    monkeypatch.setitem(sys.modules, "hid", FakePackage(mice[:1]))
    with pytest.raises(RobopolicyError, match="no SpaceMouse"):
        make_device({"name": "spacemouse"})
    monkeypatch.setitem(sys.modules, "hid", FakePackage(mice, refuses=True))
    with pytest.raises(RobopolicyError, match="udev"):
        make_device({"name": "spacemouse"})
