"""Topics of a robot behind a zenoh-bridge-ros2dds: keys are topic names, payloads the CDR bytes of DDS.

zenoh has threads of its own. A link that cannot keep up drops messages; one that is lost is taken up again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hardware.extras import require
from hardware.transport.dds import RELIABLE, Quality
from hardware.transport.route import Zenoh
from hardware.transport.topics import Participant, QueuedReader, Reader, Writer, ros_name
from robopolicy.errors import RobopolicyError

require("zenoh", extra="zenoh", purpose="Talking to robots over zenoh")

import zenoh  # noqa: E402
import zenoh.ext  # noqa: E402

__all__ = ["ZenohParticipant", "ZenohReader", "ZenohWriter", "from_cdr", "open_session", "subscribe", "zenoh"]

T = TypeVar("T")

_HEADERS = (b"\0\0", b"\0\1")


class ZenohParticipant(Participant):
    """One zenoh session, linked to a bridge. Opening waits half a second for the link, endpoints for more."""

    def __init__(self, settings: Zenoh) -> None:
        self._settings = settings
        self._session: zenoh.Session | None = open_session(connect=settings.connect)
        self._endpoints: list[ZenohReader[Any] | ZenohWriter[Any]] = []

    def reader(self, topic: str, kind: type[T], quality: Quality = RELIABLE) -> Reader[T]:
        """Subscribe to a topic, by its DDS name; of a latched one the bridge's copy is asked for too."""
        name = ros_name(topic)
        reader: ZenohReader[T] = ZenohReader(
            name, lambda data: from_cdr(kind, data), quality.depth, self._advice
        )
        self._endpoints.append(reader)
        reader.subscription = subscribe(self._joined(), self._key(name), reader.put, latched=quality.latched)
        return reader

    def writer(self, topic: str, kind: type[T], quality: Quality = RELIABLE) -> Writer[T]:
        """Publish messages of one class on a topic, by its DDS name."""
        name = ros_name(topic)
        writer: ZenohWriter[T] = ZenohWriter(name, self._joined(), self._key(name), self._advice)
        self._endpoints.append(writer)
        return writer

    def close(self) -> None:
        """End the session; its threads end with it."""
        for endpoint in self._endpoints:
            endpoint.close()
        self._endpoints.clear()
        if self._session is not None:
            self._session.close()
            self._session = None

    def _key(self, name: str) -> str:
        return "/".join(part for part in (self._settings.namespace.strip("/"), name.strip("/")) if part)

    def _joined(self) -> zenoh.Session:
        if self._session is None:
            raise RobopolicyError(f"The session with {', '.join(self._settings.connect)} is closed.")
        return self._session

    def _advice(self) -> str:
        info = self._joined().info
        linked = [*info.peers_zid(), *info.routers_zid()]
        state = f"{len(linked)} linked" if linked else "nobody answers there"
        return (
            f"zenoh at {', '.join(self._settings.connect)}: {state}. "
            "Does the bridge run, with the same namespace, and the robot's nodes behind it?"
        )


class ZenohReader(QueuedReader[T]):
    """Decodes CDR bytes when they are taken."""

    subscription: Any = None

    def close(self) -> None:
        """Leave the topic."""
        if self.subscription is not None:
            self.subscription.undeclare()
            self.subscription = None
        super().close()


class ZenohWriter(Writer[T]):
    """Publishes messages of one class."""

    def __init__(self, topic: str, session: zenoh.Session, key: str, advice: Callable[[], str]) -> None:
        self.topic = topic
        self._tell = advice
        self._publisher: zenoh.Publisher | None = session.declare_publisher(
            key, congestion_control=zenoh.CongestionControl.DROP, express=True
        )

    def write(self, message: T) -> None:
        """Send one message. A link that is full may block it for a millisecond before it is dropped."""
        encoded: Any = message
        self._alive().put(encoded.serialize())

    @property
    def matched(self) -> int:
        """1 if anybody subscribes at the other end."""
        status: Any = self._alive().matching_status
        return int(status.matching)

    def close(self) -> None:
        """Leave the topic."""
        if self._publisher is not None:
            self._publisher.undeclare()
            self._publisher = None

    def _advice(self) -> str:
        return self._tell()

    def _alive(self) -> zenoh.Publisher:
        if self._publisher is None:
            raise RobopolicyError(f"The writer of {self.topic} is closed.")
        return self._publisher


def from_cdr(kind: type[T], data: bytes) -> T:
    """A message from the bytes of a sample.

    Raises:
        ValueError: they do not begin as CDR does. Of no bytes at all Cyclone would make a message of zeros,
            which on a stop topic says "go on".
        struct.error, IndexError: they end early, or say lengths that they have not.
    """
    if data[:2] not in _HEADERS:
        raise ValueError(f"CDR begins with 00 00 or 00 01, not with {data[:2].hex(' ') or 'nothing'}.")
    decoder: Any = kind
    message: T = decoder.deserialize(data)
    return message


def open_session(*, connect: Sequence[str] = (), listen: Sequence[str] = ()) -> zenoh.Session:
    """A zenoh peer that talks to these endpoints alone (``tcp/127.0.0.1:7447``), and tries again for ever."""
    settings = {
        "mode": "peer",
        "connect/endpoints": list(connect),
        "connect/retry": {"period_init_ms": 200, "period_max_ms": 1000, "period_increase_factor": 2},
        "listen/endpoints": list(listen),
        "scouting/multicast/enabled": False,
        "scouting/gossip/enabled": False,
        "timestamping/enabled": True,  # of copies kept for late joiners
    }
    config = zenoh.Config()
    for name, value in settings.items():
        config.insert_json5(name, json.dumps(value))
    return zenoh.open(config)


def subscribe(
    session: zenoh.Session, key: str, receive: Callable[[bytes], None], *, latched: bool = False
) -> Any:
    """Call a function on zenoh's thread with what arrives from others; undeclare what is returned."""

    def take(sample: zenoh.Sample) -> None:
        receive(sample.payload.to_bytes())

    elsewhere = zenoh.Locality.REMOTE
    if not latched:
        return session.declare_subscriber(key, take, allowed_origin=elsewhere)
    history = zenoh.ext.HistoryConfig(detect_late_publishers=True, max_samples=1)
    return zenoh.ext.declare_advanced_subscriber(
        session, key, take, allowed_origin=elsewhere, history=history
    )
