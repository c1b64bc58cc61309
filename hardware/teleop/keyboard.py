"""The keyboard of a terminal, also over ssh: keys come as bytes, and a key that is held repeats."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hardware.teleop.device import Device, Event, Motion
from robopolicy.errors import ConfigError
from robopolicy.registry import register

__all__ = ["EVENTS", "MOVES", "Keyboard", "KeyboardConfig"]

MOVES: dict[str, tuple[int, int]] = {
    "w": (0, 1), "s": (0, -1), "a": (1, 1), "d": (1, -1), "r": (2, 1), "f": (2, -1),
    "o": (3, 1), "u": (3, -1), "k": (4, 1), "i": (4, -1), "j": (5, 1), "l": (5, -1),
}  # fmt: skip
"""Axis (x, y, z, then turns about them) and direction."""
EVENTS: dict[str, Event] = {"\n": "done", "\r": "done", "x": "discard", "p": "hand_back", "q": "quit"}
_ARROWS = {"\x1b[A": "w", "\x1b[B": "s", "\x1b[D": "a", "\x1b[C": "d"}


@dataclass(frozen=True, kw_only=True)
class KeyboardConfig:
    """How keys are understood."""

    hold_s: float = 0.15
    """A key counts as held for so long after its last byte: terminals do not tell when it is let go."""

    def __post_init__(self) -> None:
        if not 0 < self.hold_s < 2:
            raise ConfigError(f"keyboard.hold_s must be in (0, 2), got {self.hold_s}.")


@register("device", "keyboard")
class Keyboard(Device):
    """Reads single keys until it is closed; the terminal is then as it was.

    Args:
        terminal: file descriptor; standard input by default.

    Raises:
        ConfigError: that is no terminal.
    """

    help = (
        "w/s or arrows forward, back   a/d left, right   r/f up, down\n"
        "u/o roll   i/k pitch   j/l yaw   space gripper\n"
        "Enter: done, keep   x: discard   p: hand back to the policy   q: quit"
    )

    def __init__(
        self,
        config: KeyboardConfig,
        *,
        terminal: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config, self._clock = config, clock
        self._terminal = sys.stdin.fileno() if terminal is None else terminal
        if not os.isatty(self._terminal):
            raise ConfigError(
                "The keyboard needs a terminal, and standard input is none. Start it in a shell (ssh -t), or "
                "choose device=spacemouse."
            )
        self._before = termios.tcgetattr(self._terminal)
        tty.setcbreak(self._terminal)  # Ctrl-C still interrupts
        self._until = np.zeros(6)
        self._direction = np.zeros(6)

    def read(self) -> Motion:
        """The keys that came since the last call, and those still held."""
        now, toggles = self._clock(), 0
        event: Event = ""
        for key in self._keys():
            if key in MOVES:
                axis, direction = MOVES[key]
                self._direction[axis], self._until[axis] = direction, now + self.config.hold_s
            elif key == " ":
                toggles += 1
            elif key in EVENTS:
                event = EVENTS[key]
        speed = np.where(now < self._until, self._direction, 0.0)
        return Motion(speed[:3], speed[3:], bool(toggles % 2), event)

    def ask(self, text: str) -> str:
        """A question, with the terminal as it usually is."""
        termios.tcsetattr(self._terminal, termios.TCSAFLUSH, self._before)
        try:
            return input(text)
        finally:
            tty.setcbreak(self._terminal)

    def close(self) -> None:
        """Give the terminal back."""
        termios.tcsetattr(self._terminal, termios.TCSADRAIN, self._before)

    def _keys(self) -> str:
        found = b""
        while select.select([self._terminal], [], [], 0.0)[0]:
            chunk = os.read(self._terminal, 256)
            if not chunk:
                break
            found += chunk
        text = found.decode(errors="ignore")
        for sequence, key in _ARROWS.items():
            text = text.replace(sequence, key)
        return text
