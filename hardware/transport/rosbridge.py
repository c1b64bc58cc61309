"""Topics of a robot behind a rosbridge server (rosbridge v2: JSON over a websocket).

One thread keeps the link, and takes it up again when it is lost. What waits to be sent is bounded, the oldest
giving way, and never outlives the link: a command that could not be sent is not sent later.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from hardware.extras import require
from hardware.transport.dds import RELIABLE, Quality
from hardware.transport.ros_json import from_json, to_json
from hardware.transport.route import Rosbridge
from hardware.transport.topics import Participant, QueuedReader, Reader, Writer, ros_name, ros_type
from robopolicy.errors import RobopolicyError

require("websockets", extra="rosbridge", purpose="Talking to robots over rosbridge")

from websockets.asyncio.client import ClientConnection, connect  # noqa: E402
from websockets.exceptions import WebSocketException  # noqa: E402

__all__ = ["RosbridgeParticipant", "RosbridgeWriter"]

T = TypeVar("T")

_RETRY_S = 0.2
_OPEN_S = 2.0
_PING_S = 2.0
_CLOSE_S = 0.5
_LARGEST = 2**25
"""Bytes of a message: pictures come as base64."""


class RosbridgeParticipant(Participant):
    """A client of one rosbridge server. Joining does not wait for the link; endpoints do (`wait_matched`)."""

    def __init__(self, settings: Rosbridge) -> None:
        self._url = settings.url
        self._trouble = "no link yet"
        self._up = False
        self._readers: dict[str, list[QueuedReader[Any]]] = {}
        self._writers: list[RosbridgeWriter[Any]] = []
        self._openings: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._wake, self._drained = asyncio.Event(), asyncio.Event()
        self._task = self._loop.create_task(self._keep())
        self._thread = threading.Thread(target=self._run, name="rosbridge", daemon=True)
        self._thread.start()

    def reader(self, topic: str, kind: type[T], quality: Quality = RELIABLE) -> Reader[T]:
        """Subscribe to a topic, by its DDS name; the server keeps as many messages back as we do."""
        name = ros_name(topic)
        reader: QueuedReader[T] = QueuedReader(
            name, lambda value: from_json(kind, value), quality.depth, self._advice
        )
        self._readers.setdefault(name, []).append(reader)
        self._open(op="subscribe", topic=name, type=ros_type(kind), queue_length=quality.depth)
        return reader

    def writer(self, topic: str, kind: type[T], quality: Quality = RELIABLE) -> Writer[T]:
        """Publish messages of one class on a topic, by its DDS name."""
        writer: RosbridgeWriter[T] = RosbridgeWriter(
            ros_name(topic), quality.depth, self._nudge, self._is_up, self._advice
        )
        self._writers.append(writer)
        self._open(op="advertise", topic=writer.topic, type=ros_type(kind), latch=quality.latched)
        return writer

    def close(self) -> None:
        """Send what waits, hang up and join the thread."""
        for endpoint in (*self._writers, *self._all_readers()):
            endpoint.close()
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._leave(), self._loop)
            self._thread.join()

    def _advice(self) -> str:
        return f"rosbridge at {self._url}: {self._trouble}. Does it run, and the robot's nodes behind it?"

    def _is_up(self) -> bool:
        return self._up

    def _all_readers(self) -> list[QueuedReader[Any]]:
        return [reader for readers in tuple(self._readers.values()) for reader in readers]

    def _open(self, **operation: Any) -> None:
        if not self._thread.is_alive():
            raise RobopolicyError(f"The link to rosbridge at {self._url} is closed.")
        self._openings.append(json.dumps(operation))
        self._nudge()

    def _nudge(self) -> None:
        self._loop.call_soon_threadsafe(self._wake.set)

    # On the thread.

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.close()

    async def _keep(self) -> None:
        while True:
            try:
                async with connect(
                    self._url,
                    compression=None,
                    proxy=None,
                    open_timeout=_OPEN_S,
                    ping_interval=_PING_S,
                    ping_timeout=_PING_S,
                    close_timeout=_CLOSE_S,
                    max_size=_LARGEST,
                ) as socket:
                    await self._talk(socket)
                self._trouble = "it hung up"
            except (OSError, WebSocketException) as error:
                self._trouble = str(error) or type(error).__name__
            await asyncio.sleep(_RETRY_S)

    async def _talk(self, socket: ClientConnection) -> None:
        for writer in self._writers:
            writer.waiting.clear()
        sending = asyncio.create_task(self._send(socket))
        try:
            async for frame in socket:
                self._deliver(frame)
        finally:
            self._up = False
            for reader in self._all_readers():
                reader.lost()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, socket: ClientConnection) -> None:
        said = 0
        while True:
            self._wake.clear()
            for opening in self._openings[said:]:
                await socket.send(opening)
                said += 1
            if not self._up:
                self._up, self._trouble = True, "linked"
            for writer in tuple(self._writers):
                while writer.waiting:
                    await socket.send(writer.waiting.popleft())
            self._drained.set()
            await self._wake.wait()

    async def _leave(self) -> None:
        if self._up:
            self._drained.clear()
            self._wake.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._drained.wait(), _CLOSE_S)
        self._task.cancel()

    def _deliver(self, frame: str | bytes) -> None:
        message = _parse(frame)
        operation = message.get("op")
        if operation == "publish":
            for reader in self._readers.get(str(message.get("topic")), ()):
                reader.put(message.get("msg"))
        elif operation == "status":
            self._trouble = f"it says {message.get('msg')!r}"
        elif operation is None:
            # It could have been of any topic, so it counts against each.
            for reader in self._all_readers():
                reader.put(None)


class RosbridgeWriter(Writer[T]):
    """Publishes messages of one class; what the link cannot take is dropped, the oldest first."""

    def __init__(
        self,
        topic: str,
        depth: int,
        nudge: Callable[[], None],
        is_up: Callable[[], bool],
        advice: Callable[[], str],
    ) -> None:
        self.topic = topic
        self.waiting: deque[str] = deque(maxlen=depth)
        self._nudge, self._is_up, self._tell = nudge, is_up, advice
        self._closed = False

    def write(self, message: T) -> None:
        """Hand one message to the thread; without a link it is lost, as without a listener."""
        self._refuse_closed()
        if self._is_up():
            operation = {"op": "publish", "topic": self.topic, "msg": to_json(message)}
            self.waiting.append(json.dumps(operation, allow_nan=False))
            self._nudge()

    @property
    def matched(self) -> int:
        """1 while the server listens; who subscribes behind it is not told."""
        self._refuse_closed()
        return int(self._is_up())

    def close(self) -> None:
        """Leave the topic."""
        self._closed = True

    def _advice(self) -> str:
        return self._tell()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise RobopolicyError(f"The writer of {self.topic} is closed.")


def _parse(frame: str | bytes) -> dict[str, Any]:
    """A message of the protocol, or an empty one for anything else."""
    try:
        message = json.loads(frame)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}
