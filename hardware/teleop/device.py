"""What a person holds: six numbers and a few buttons, whatever the device.

Axes are those of the policy's frame: x forward, y left, z up, seen from the robot.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from robopolicy import registry

__all__ = ["Device", "Event", "Motion", "Scripted", "make_device"]

Event = Literal["", "done", "discard", "hand_back", "quit"]
"""done: the episode is over and kept. discard: it is over and thrown away. hand_back: the policy may go on.
quit: stop the robot and end."""


def _still() -> np.ndarray:
    return np.zeros(3)


@dataclass(frozen=True, slots=True)
class Motion:
    """What a person asks for now."""

    linear: np.ndarray = field(default_factory=_still)
    """`[3]`, each from -1 to 1, of the largest speed."""
    angular: np.ndarray = field(default_factory=_still)
    """`[3]`, turns about the same axes."""
    toggle_gripper: bool = False
    event: Event = ""

    @property
    def active(self) -> bool:
        """Whether the person moves anything."""
        return bool(self.toggle_gripper or self.linear.any() or self.angular.any())


class Device(ABC):
    """One device; `read` is called once a step."""

    help = ""
    """What its keys do, for the screen."""

    @abstractmethod
    def read(self) -> Motion:
        """What is asked for now; does not wait."""

    def ask(self, text: str) -> str:
        """Ask the person something between episodes."""
        return input(text)

    def close(self) -> None:  # noqa: B027 - some have nothing to give back
        """Give the device back. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Scripted(Device):
    """Motions in a given order, one a read, and then nothing: a person for tests and dry runs."""

    def __init__(self, motions: Sequence[Motion], answers: Sequence[str] = ()) -> None:
        self._motions, self._answers = list(motions), list(answers)
        self.asked: list[str] = []

    def read(self) -> Motion:
        """The next motion."""
        return self._motions.pop(0) if self._motions else Motion()

    def ask(self, text: str) -> str:
        """The next answer, or none."""
        self.asked.append(text)
        return self._answers.pop(0) if self._answers else ""


def make_device(config: Mapping[str, Any]) -> Device:
    """The device that ``{"name": ..., **settings}`` describes.

    Raises:
        ConfigError: unknown device or setting; lists the valid ones.
        MissingExtra: its package is not installed.
    """
    package = importlib.import_module("hardware.teleop")
    for module in pkgutil.iter_modules(package.__path__):
        if module.name in ("keyboard", "spacemouse"):
            importlib.import_module(f"{package.__name__}.{module.name}")
    device: Device = registry.build("device", config)
    return device
