"""What every way to a robot's topics offers: participants that make readers and writers of typed messages.

`hardware.transport.dds` is the default. `rosbridge` and `zenoh` reach robots behind a bridge; their messages
arrive on threads of their own and wait in bounded queues: a control process never waits for a socket.
"""

from __future__ import annotations

import struct
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from robopolicy.errors import RobopolicyError

if TYPE_CHECKING:
    from hardware.transport.dds import Quality

__all__ = [
    "MALFORMED",
    "Endpoint",
    "Participant",
    "QueuedReader",
    "Reader",
    "TopicTimeout",
    "Writer",
    "ros_name",
    "ros_type",
]

T = TypeVar("T")
V = TypeVar("V")

# What a decoder raises on something that is not a message of its type.
MALFORMED = (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, struct.error)


class TopicTimeout(RobopolicyError, TimeoutError):
    """Nobody at the other end of a topic within the time allowed."""


class Endpoint(ABC):
    """One end of a topic."""

    missed: ClassVar[str]
    """What the other end does, in words."""
    topic: str

    @property
    @abstractmethod
    def matched(self) -> int:
        """Number of endpoints at the other end."""

    @abstractmethod
    def close(self) -> None:
        """Leave the topic."""

    @abstractmethod
    def _advice(self) -> str:
        """A sentence on what may be wrong when there is nobody at the other end."""

    def wait_matched(self, timeout_s: float, count: int = 1) -> None:
        """Wait until this many are at the other end.

        Raises:
            TopicTimeout: fewer have appeared in time.
        """
        deadline = time.monotonic() + timeout_s
        while self.matched < count:
            if time.monotonic() > deadline:
                raise TopicTimeout(
                    f"Nobody {self.missed} {self.topic} within {timeout_s:.2g} s "
                    f"({self.matched} of {count}). {self._advice()}"
                )
            time.sleep(0.005)


class Writer(Endpoint, Generic[T]):
    """Publishes messages of one class."""

    missed = "subscribes to"

    @abstractmethod
    def write(self, message: T) -> None:
        """Send one message."""


class Reader(Endpoint, Generic[T]):
    """Receives messages of one class; what is not such a message is dropped and counted in `rejected`."""

    missed = "publishes"
    rejected: int
    """Messages dropped because they were malformed or failed their checksum."""

    @abstractmethod
    def take(self) -> list[T]:
        """Every message that has arrived since the last call, oldest first."""

    @abstractmethod
    def wait(self, timeout_s: float) -> bool:
        """Sleep until something arrives; False when the time is over."""

    def latest(self) -> T | None:
        """The newest message that has arrived since the last call, or None."""
        messages = self.take()
        return messages[-1] if messages else None

    def newest(self, timeout_s: float, read: Callable[[T], V | None], refuse: Callable[[], None]) -> V | None:
        """The last thing that `read` makes of what arrives, waiting for something until the time is over.

        Args:
            refuse: called for every message that was dropped.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            if timeout_s > 0:
                self.wait(max(0.0, deadline - time.monotonic()))
            found, before = None, self.rejected
            for message in self.take():
                found = read(message) or found
            for _ in range(self.rejected - before):
                refuse()
            if found is not None or time.monotonic() >= deadline:
                return found


class Participant(ABC):
    """One process's membership of a robot's topics; makes readers and writers."""

    @abstractmethod
    def reader(self, topic: str, kind: type[T], quality: Quality = ...) -> Reader[T]:
        """Subscribe to a topic, by its DDS name (``rt/...`` for ROS 2), of messages of one class."""

    @abstractmethod
    def writer(self, topic: str, kind: type[T], quality: Quality = ...) -> Writer[T]:
        """Publish messages of one class on a topic."""

    @abstractmethod
    def close(self) -> None:
        """Leave; readers and writers made here are dead afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class QueuedReader(Reader[T]):
    """Messages that another thread receives; they are decoded when they are taken.

    Args:
        decode: makes a message of what `put` was given, or raises one of `MALFORMED`.
        depth: how many wait at most; the oldest give way.
        advice: see `_advice`.
    """

    def __init__(self, topic: str, decode: Callable[[Any], T], depth: int, advice: Callable[[], str]) -> None:
        self.topic = topic
        self.rejected = 0
        self._decode, self._tell = decode, advice
        self._waiting: deque[Any] = deque(maxlen=depth)
        self._arrival = threading.Condition()
        self._heard, self._closed = False, False

    def put(self, encoded: Any) -> None:
        """For the receiving thread: something has arrived."""
        with self._arrival:
            self._heard = True
            self._waiting.append(encoded)
            self._arrival.notify()

    def lost(self) -> None:
        """For the receiving thread: the link is gone, so nobody publishes."""
        self._heard = False

    def take(self) -> list[T]:
        """Every message that has arrived since the last call, oldest first."""
        self._refuse_closed()
        messages: list[T] = []
        while self._waiting:
            try:
                messages.append(self._decode(self._waiting.popleft()))
            except MALFORMED:
                self.rejected += 1
        return messages

    def wait(self, timeout_s: float) -> bool:
        """Sleep until something arrives; False when the time is over."""
        self._refuse_closed()
        with self._arrival:
            return self._arrival.wait_for(lambda: bool(self._waiting), max(0.0, timeout_s))

    @property
    def matched(self) -> int:
        """1 once something has arrived: bridges do not tell how many publish."""
        self._refuse_closed()
        return int(self._heard)

    def close(self) -> None:
        """Take nothing any more."""
        self._closed = True
        self._waiting.clear()

    def _advice(self) -> str:
        return self._tell()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise RobopolicyError(f"The reader of {self.topic} is closed.")


def ros_name(topic: str) -> str:
    """The ROS 2 name of a DDS topic: ``rt/joint_states`` is ``/joint_states``."""
    return "/" + topic.removeprefix("rt/").lstrip("/")


def ros_type(kind: type) -> str:
    """What ROS 2 calls a message class of `hardware.transport.idl_ros`: ``sensor_msgs/msg/JointState``."""
    described: Any = kind
    package, _, _, name = described.__idl__.idl_transformed_typename.split("::")
    return f"{package}/msg/{name.removesuffix('_')}"
