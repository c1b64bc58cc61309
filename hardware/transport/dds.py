"""Typed DDS endpoints that ROS 2 nodes and Unitree robots accept, without either installed.

    with Participant(Network(domain=7)) as participant:
        states = participant.reader("rt/joint_states", JointState, STATE)
        commands = participant.writer("rt/arm_controller/joint_trajectory", JointTrajectory)
        commands.wait_matched(5.0)
        if states.wait(0.1):
            newest = states.latest()

The ROS 2 topic ``/joint_states`` is the DDS topic ``rt/joint_states``. `Network` is loopback without
multicast unless told otherwise, so nothing leaves the machine by accident.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, TypeVar

from hardware.extras import require
from hardware.transport import topics
from hardware.transport.network import Network
from robopolicy.errors import ConfigError, RobopolicyError

require("cyclonedds", extra="ros", purpose="Talking to robots over DDS")

from cyclonedds.core import InstanceState, Policy, Qos, ReadCondition, SampleState, ViewState, WaitSet  # noqa: E402
from cyclonedds.domain import Domain, DomainParticipant  # noqa: E402
from cyclonedds.internal import InvalidSample  # noqa: E402
from cyclonedds.pub import DataWriter  # noqa: E402
from cyclonedds.sub import DataReader  # noqa: E402
from cyclonedds.topic import Topic  # noqa: E402
from cyclonedds.util import duration  # noqa: E402

__all__ = ["LATCHED", "RELIABLE", "SENSOR", "STATE", "Participant", "Quality", "Reader", "Writer"]

T = TypeVar("T")

_ADVICE = "Is the robot on, on the same DDS domain and network interface, with the same message type?"

_domains: dict[int, tuple[str, Domain]] = {}
_domains_lock = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Quality of service of one endpoint. A reliable writer serves both kinds of reader; a best-effort writer
    never matches a reliable reader."""

    reliable: bool = True
    depth: int = 10
    """Samples kept: 1 for states, of which only the newest counts."""
    latched: bool = False
    """Late joiners get the last samples too (transient local)."""

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ConfigError(f"A topic keeps at least one sample, got depth={self.depth}.")

    @property
    def qos(self) -> Qos:
        """The same in Cyclone's words; XCDR1 is what ROS 2 reads."""
        reliable = Policy.Reliability.Reliable(duration(milliseconds=100))
        return Qos(
            reliable if self.reliable else Policy.Reliability.BestEffort,
            Policy.Durability.TransientLocal if self.latched else Policy.Durability.Volatile,
            Policy.History.KeepLast(self.depth),
            Policy.DataRepresentation(use_cdrv0_representation=True),
        )


RELIABLE = Quality()
"""What ROS 2 uses unless told otherwise."""
STATE = Quality(depth=1)
SENSOR = Quality(reliable=False, depth=1)
LATCHED = Quality(depth=1, latched=True)


class Participant(topics.Participant):
    """One process's membership of a DDS domain; makes readers and writers.

    Raises:
        ConfigError: this process is in the same domain with another network already.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self._participant: DomainParticipant | None = _join(network)
        self._topics: dict[str, Topic[Any]] = {}
        self._endpoints: list[Reader[Any] | Writer[Any]] = []

    def reader(self, topic: str, kind: type[T], quality: Quality = RELIABLE) -> Reader[T]:
        """Subscribe to a DDS topic (``rt/...`` for ROS 2) of messages of one class."""
        reader: Reader[T] = Reader(
            self._joined(), DataReader(self._joined(), self._topic(topic, kind), quality.qos), topic
        )
        self._endpoints.append(reader)
        return reader

    def writer(self, topic: str, kind: type[T], quality: Quality = RELIABLE) -> Writer[T]:
        """Publish messages of one class on a DDS topic."""
        writer: Writer[T] = Writer(DataWriter(self._joined(), self._topic(topic, kind), quality.qos), topic)
        self._endpoints.append(writer)
        return writer

    def close(self) -> None:
        """Leave the domain; readers and writers made here are dead afterwards."""
        for endpoint in self._endpoints:
            endpoint.close()
        self._endpoints.clear()
        self._topics.clear()
        self._participant = None

    def _joined(self) -> DomainParticipant:
        if self._participant is None:
            raise RobopolicyError(f"The participant of DDS domain {self.network.domain} is closed.")
        return self._participant

    def _topic(self, name: str, kind: type) -> Topic[Any]:
        if name not in self._topics:
            self._topics[name] = Topic(self._joined(), name, kind)
        topic = self._topics[name]
        if topic.data_type is not kind:
            raise ConfigError(
                f"Topic {name} carries {topic.data_type.__name__} already, not {kind.__name__}."
            )
        return topic


class Writer(topics.Writer[T]):
    """Publishes messages of one class."""

    def __init__(self, writer: DataWriter[Any], topic: str) -> None:
        self.topic = topic
        self._writer: DataWriter[Any] | None = writer

    def write(self, message: T) -> None:
        """Send one message. A slow reliable reader may block it for 100 ms at most."""
        self._alive().write(message)

    @property
    def matched(self) -> int:
        """Number of readers at the other end."""
        return len(self._alive().get_matched_subscriptions())

    def close(self) -> None:
        """Leave the topic."""
        self._writer = None

    def _advice(self) -> str:
        return _ADVICE

    def _alive(self) -> DataWriter[Any]:
        if self._writer is None:
            raise RobopolicyError(f"The writer of {self.topic} is closed.")
        return self._writer


class Reader(topics.Reader[T]):
    """Receives messages of one class; what is not such a message is dropped and counted in `rejected`."""

    def __init__(self, participant: DomainParticipant, reader: DataReader[Any], topic: str) -> None:
        self.topic = topic
        self.rejected = 0
        fresh = ReadCondition(reader, SampleState.NotRead | ViewState.Any | InstanceState.Any)
        waitset = WaitSet(participant)
        waitset.attach(fresh)
        self._entities: tuple[DataReader[Any], WaitSet, ReadCondition] | None = reader, waitset, fresh

    def take(self) -> list[T]:
        """Every message that has arrived since the last call, oldest first."""
        messages: list[T] = []
        reader, _, _ = self._alive()
        while True:
            # One at a time: an undecodable sample would take the others of its batch with it.
            try:
                taken = reader.take(1)
            except topics.MALFORMED:
                self.rejected += 1
                continue
            if not taken:
                return messages
            # Samples without data announce that a writer has gone.
            if not isinstance(taken[0], InvalidSample):
                messages.append(taken[0])

    def wait(self, timeout_s: float) -> bool:
        """Sleep until something arrives; False when the time is over."""
        _, waitset, _ = self._alive()
        return bool(waitset.wait(duration(nanoseconds=max(0, int(timeout_s * 1e9)))))

    @property
    def matched(self) -> int:
        """Number of writers at the other end."""
        reader, _, _ = self._alive()
        return len(reader.get_matched_publications())

    def close(self) -> None:
        """Leave the topic."""
        self._entities = None

    def _advice(self) -> str:
        return _ADVICE

    def _alive(self) -> tuple[DataReader[Any], WaitSet, ReadCondition]:
        if self._entities is None:
            raise RobopolicyError(f"The reader of {self.topic} is closed.")
        return self._entities


def _join(network: Network) -> DomainParticipant:
    # Cyclone configures a domain once a process, before its first participant.
    with _domains_lock:
        xml = network.xml
        if network.domain not in _domains:
            _domains[network.domain] = xml, Domain(network.domain, xml)
        if _domains[network.domain][0] != xml:
            raise ConfigError(
                f"This process is in DDS domain {network.domain} already, "
                "with another interface or other peers."
            )
        return DomainParticipant(network.domain)
