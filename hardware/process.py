"""Processes beside a policy (simulated robots, cameras): command line and clock, starting and ending them."""

from __future__ import annotations

import argparse
import dataclasses
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, Self, TypeVar

from hardware.priority import go_first
from hardware.transport.network import Network
from robopolicy.errors import RobopolicyError
from robopolicy.registry import parse

__all__ = ["READY", "Simulated", "settings", "ticks"]

READY = "ready"
_LATE_NS = 200_000_000
_NICE = -5

T = TypeVar("T")


def settings(kind: type[T], description: str, arguments: Sequence[str] | None = None) -> tuple[T, Network]:
    """A settings dataclass and a network from the command line: one option for every field."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--domain", type=int, default=1, help="DDS domain")
    parser.add_argument("--interface", default="lo", help="network interface; only lo is safe beside a robot")
    for entry in dataclasses.fields(kind):  # type: ignore[arg-type]
        read: Any = type(entry.default)
        if read is bool:
            parser.add_argument(f"--{entry.name.replace('_', '-')}", action=argparse.BooleanOptionalAction)
        else:
            parser.add_argument(
                f"--{entry.name.replace('_', '-')}", type=read, help=f"(default {entry.default})"
            )
    given = {k: v for k, v in vars(parser.parse_args(arguments)).items() if v is not None}
    network = Network(domain=given.pop("domain"), interface=given.pop("interface"))
    return parse(kind, given), network


def ticks(period_ns: int, *, nice: int = _NICE) -> Iterator[int]:
    """Yield the wall-clock time of every tick, on time, until the process is told to end or its parent has.

    A robot has a computer of its own; a simulated one asks for priority on this one (`nice`).

    A tick that comes late is made up for; after more than 0.2 s the time lost is given up.
    """
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    parent = os.getppid()
    go_first(nice)
    offset = time.time_ns() - time.monotonic_ns()
    due = time.monotonic_ns()
    print(READY, flush=True)
    while not ended.is_set() and os.getppid() == parent:
        yield due + offset
        due += period_ns
        left = due - time.monotonic_ns()
        if left > 0:
            time.sleep(left * 1e-9)
        elif left < -_LATE_NS:
            due -= left


class Simulated:
    """A simulated robot in a process of its own: ``with Simulated("hardware.sim.g1", "--domain", "7"): ...``

    Raises:
        RobopolicyError: it did not start; the message ends with what it said.
    """

    def __init__(self, module: str, *arguments: str, timeout_s: float = 60.0) -> None:
        command = [sys.executable, "-m", module, *arguments]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        said: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()
        deadline = time.monotonic() + timeout_s
        try:
            while (line := self._lines.get(timeout=max(0.0, deadline - time.monotonic()))) != READY:
                if line is None:
                    raise queue.Empty
                said.append(line)
        except queue.Empty:
            self.close()
            raise RobopolicyError(
                f"{' '.join(command[1:])} did not start:\n" + "\n".join(said[-20:])
            ) from None

    def rest(self, timeout_s: float = 5.0) -> str:
        """What it printed after it was ready; it must have ended or end soon."""
        self.process.wait(timeout_s)
        lines: list[str] = []
        while (line := self._lines.get(timeout=timeout_s)) is not None:
            lines.append(line)
        return "\n".join(lines)

    def close(self, patience_s: float = 2.0) -> None:
        """End the process, by force if it does not listen."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(patience_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip())
        self._lines.put(None)
