from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hardware.teleop.device import make_device
from hardware.teleop.keyboard import EVENTS, MOVES, Keyboard, KeyboardConfig
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError

ROOT = Path(__file__).parents[3]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def typed(ours: int, theirs: int, text: bytes) -> None:
    os.write(ours, text)
    assert select.select([theirs], [], [], 1.0)[0]


def test_keys_move_for_a_while_after_their_last_byte(terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    clock = Clock()
    with Keyboard(KeyboardConfig(hold_s=0.2), terminal=theirs, clock=clock) as keyboard:
        assert not keyboard.read().active
        typed(ours, theirs, b"wj")
        motion = keyboard.read()
        np.testing.assert_allclose(motion.linear, [1, 0, 0])
        np.testing.assert_allclose(motion.angular, [0, 0, 1])
        clock.now = 0.15
        typed(ours, theirs, b"s")  # the other way at once
        np.testing.assert_allclose(keyboard.read().linear, [-1, 0, 0])
        clock.now = 0.3
        np.testing.assert_allclose(keyboard.read().linear, [-1, 0, 0])
        assert not keyboard.read().angular.any()
        clock.now = 0.36
        assert not keyboard.read().active


def test_arrows_the_gripper_and_the_end_of_an_episode(terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    with Keyboard(KeyboardConfig(), terminal=theirs, clock=Clock()) as keyboard:
        typed(ours, theirs, b"\x1b[A\x1b[D ")
        motion = keyboard.read()
        np.testing.assert_allclose(motion.linear, [1, 1, 0])
        assert motion.toggle_gripper
        typed(ours, theirs, b"  ")
        assert not keyboard.read().toggle_gripper
        for key, event in EVENTS.items():
            typed(ours, theirs, key.encode())
            assert keyboard.read().event == event
    axes = sorted(MOVES.values())
    assert axes == [(axis, side) for axis in range(6) for side in (-1, 1)]


def test_the_terminal_is_given_back(terminal: tuple[int, int]) -> None:
    _, theirs = terminal
    before = termios.tcgetattr(theirs)
    with Keyboard(KeyboardConfig(), terminal=theirs):
        assert not termios.tcgetattr(theirs)[3] & termios.ICANON
    assert termios.tcgetattr(theirs) == before


def test_what_is_no_terminal_is_refused() -> None:
    reading, writing = os.pipe()
    with pytest.raises(ConfigError, match=r"needs a terminal.*device=spacemouse"):
        Keyboard(KeyboardConfig(), terminal=reading)
    os.close(reading)
    os.close(writing)
    with pytest.raises(ConfigError, match=r"Unknown device 'mouse'.*Valid: keyboard, spacemouse"):
        make_device({"name": "mouse"})
    with pytest.raises(ConfigError, match=r"hold_s must be in \(0, 2\)"):
        KeyboardConfig(hold_s=0.0)


DRIVE = """
import sys
import tests.toy_env
from scripts.teleoperate import main
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_somebody_drives_with_a_terminal(tmp_path: Path) -> None:
    """The script, as over ssh: a terminal of its own, bytes in, a store out."""
    ours, theirs = pty.openpty()
    arguments = ["+task.name=toy", "+task.env.name=toy", "+task.horizon=30", "episodes=1", "success_hold=0"]
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVE, *arguments, f"out={tmp_path / 'toy.zarr'}"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
    )
    os.close(theirs)
    said = b""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                said += os.read(ours, 4096)
            except OSError:
                break
        if b"person" in said:
            os.write(ours, b"\n" if said.count(b"person") > 8 else b"wd")
    process.wait(20)
    assert process.returncode == 0, said.decode()
    assert b"gripper" in said
    assert b"1 episodes recorded" in said
    os.close(ours)
    episode = EpisodeStore.open(tmp_path / "toy.zarr").episode(0)
    assert episode["takeover"].all()
    assert episode["action"][:, 0].max() > 0.3
    assert episode["action"][:, 1].min() < -0.3
