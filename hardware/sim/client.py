"""The scene around a simulated robot: what a person would do with their hands between two episodes."""

from __future__ import annotations

import time
from typing import Self

from hardware.transport.dds import LATCHED, RELIABLE, STATE, Participant
from hardware.transport.idl_ros import Bool, Int64
from hardware.transport.network import Network
from hardware.transport.topics import TopicTimeout

__all__ = ["Scene"]


class Scene:
    """Begins episodes of a simulated robot and tells whether its task is solved.

    The robot jumps to the episode's first pose, so no driver may be armed meanwhile.
    """

    def __init__(self, network: Network, timeout_s: float = 5.0) -> None:
        self._participant = Participant(network)
        self._reset = self._participant.writer("rt/sim/reset", Int64, RELIABLE)
        self._episode = self._participant.reader("rt/sim/episode", Int64, LATCHED)
        self._solved = self._participant.reader("rt/sim/success", Bool, STATE)
        self._reset.wait_matched(timeout_s)
        self._episode.wait_matched(timeout_s)
        self._episode.wait(timeout_s)
        self._episode.take()

    def reset(self, seed: int, timeout_s: float = 5.0) -> None:
        """Begin the episode of a seed.

        Raises:
            TopicTimeout: the simulation does not answer.
        """
        self._reset.write(Int64(seed))
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self._episode.wait(0.1)
            if any(message.data == seed for message in self._episode.take()):
                self._solved.take()
                return
        raise TopicTimeout(f"The simulation did not begin episode {seed} within {timeout_s:g} s.")

    def solved(self) -> bool | None:
        """Whether the task was solved when the simulation last said so; None if it has said nothing new."""
        newest = self._solved.latest()
        return None if newest is None else newest.data

    @property
    def success(self) -> bool:
        """Whether the task is solved: waits for the simulation, which says so ten times a second."""
        self._solved.wait(1.0)
        newest = self._solved.latest()
        return newest is not None and newest.data

    def close(self) -> None:
        """Leave the simulation alone."""
        self._participant.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
