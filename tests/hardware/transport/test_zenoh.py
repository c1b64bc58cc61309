"""The zenoh participant: both directions, namespaces, latched topics, garbage, a link that is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")
pytest.importorskip("zenoh", reason="zenoh is the extra robopolicy[zenoh]")

import zenoh
import zenoh.ext

from hardware.transport.dds import LATCHED, STATE
from hardware.transport.idl_ros import Bool, Image, JointState, JointTrajectory
from hardware.transport.route import Zenoh
from hardware.transport.topics import TopicTimeout
from hardware.transport.zenoh import ZenohParticipant, open_session, subscribe
from robopolicy.errors import RobopolicyError
from tests.hardware.wire import eventually, free_port

STATES, COMMANDS = "rt/joint_states", "rt/arm_controller/joint_trajectory"


@pytest.fixture
def endpoint() -> str:
    return f"tcp/127.0.0.1:{free_port()}"


@pytest.fixture
def bridge(endpoint: str) -> Iterator[object]:
    with open_session(listen=[endpoint]) as session:
        yield session


def joined(endpoint: str, namespace: str = "") -> ZenohParticipant:
    return ZenohParticipant(Zenoh(connect=(endpoint,), namespace=namespace))


def linked(publisher: object) -> Callable[[], bool]:
    return lambda: publisher.matching_status.matching  # type: ignore[attr-defined]


@pytest.mark.parametrize(("namespace", "prefix"), [("", ""), ("/bot1", "bot1/")])
def test_keys_are_topic_names_and_payloads_cdr(
    bridge: zenoh.Session, endpoint: str, namespace: str, prefix: str
) -> None:
    received: list[bytes] = []
    subscribe(bridge, prefix + "arm_controller/joint_trajectory", received.append)
    publisher = bridge.declare_publisher(prefix + "joint_states")
    with joined(endpoint, namespace) as participant:
        writer, reader = participant.writer(COMMANDS, JointTrajectory), participant.reader(STATES, JointState)
        writer.wait_matched(20.0)
        message = JointTrajectory(joint_names=["a", "b"])
        writer.write(message)
        eventually(lambda: received)
        assert received == [message.serialize()]
        assert received[0][:2] == b"\0\1"
        eventually(linked(publisher))
        states = [JointState(name=["a"], position=[float(i)]) for i in range(5)]
        for state in states:
            publisher.put(state.serialize())
        reader.wait_matched(20.0)
        taken: list[JointState] = []
        eventually(lambda: taken.extend(reader.take()) or len(taken) == 5)
        assert taken == states


def test_a_state_topic_keeps_the_newest(bridge: zenoh.Session, endpoint: str) -> None:
    publisher = bridge.declare_publisher("camera")
    with joined(endpoint) as participant:
        newest, every = (participant.reader("rt/camera", Image, *quality) for quality in ((STATE,), ()))
        eventually(linked(publisher))
        for i in range(4):
            publisher.put(Image(height=1, width=1, step=3, data=bytes([i, i, i])).serialize())
        taken: list[Image] = []
        eventually(lambda: taken.extend(every.take()) or len(taken) == 4)
        eventually(lambda: newest.wait(0.0))
        assert [image.data for image in newest.take()][-1:] == [b"\3\3\3"]


def test_a_latched_topic_serves_late_joiners(bridge: zenoh.Session, endpoint: str) -> None:
    cache = zenoh.ext.CacheConfig(max_samples=1)
    publisher = zenoh.ext.declare_advanced_publisher(bridge, "stop", cache=cache, publisher_detection=True)
    publisher.put(Bool(False).serialize())
    publisher.put(Bool(True).serialize())
    with joined(endpoint) as participant:
        reader = participant.reader("rt/stop", Bool, LATCHED)
        assert reader.wait(20.0)
        assert reader.take() == [Bool(True)]


def test_garbage_is_counted_and_the_next_message_arrives(bridge: zenoh.Session, endpoint: str) -> None:
    rng = np.random.default_rng(0)
    whole = JointState(name=["a", "b"], position=[1.0, 2.0]).serialize()
    publisher = bridge.declare_publisher("joint_states", congestion_control=zenoh.CongestionControl.BLOCK)
    with joined(endpoint) as participant:
        reader = participant.reader(STATES, JointState)
        eventually(linked(publisher))
        good, bad = 0, [b"", *(whole[:i] for i in range(1, len(whole))), *(rng.bytes(i) for i in range(50))]
        for data in bad:
            publisher.put(data)
            eventually(lambda: reader.wait(0.0))
            good += len(reader.take())
        publisher.put(JointState(name=["last"]).serialize())
        assert reader.wait(20.0)
        assert [m.name for m in reader.take()] == [["last"]]
        assert good + reader.rejected == len(bad)
        assert reader.rejected > 0.9 * len(bad)


def test_nothing_is_not_a_message_that_ends_a_stop(bridge: zenoh.Session, endpoint: str) -> None:
    publisher = bridge.declare_publisher("stop")
    with joined(endpoint) as participant:
        reader = participant.reader("rt/stop", Bool)
        eventually(linked(publisher))
        publisher.put(b"")
        publisher.delete()
        publisher.put(b"\7\7\0\0" + Bool(False).serialize()[4:])
        publisher.put(Bool(True).serialize())
        taken: list[Bool] = []
        eventually(lambda: taken.extend(reader.take()) or taken)
        assert taken == [Bool(True)]
        assert reader.rejected == 3


def test_a_lost_link_is_taken_up_again(endpoint: str) -> None:
    with joined(endpoint) as participant:
        writer = participant.writer(COMMANDS, JointTrajectory)
        for name in ("first", "second"):
            received: list[bytes] = []
            with open_session(listen=[endpoint]) as session:
                subscribe(session, "arm_controller/joint_trajectory", received.append)
                writer.wait_matched(20.0)
                writer.write(JointTrajectory(joint_names=[name]))
                eventually(lambda received=received: received)  # type: ignore[misc]
                assert [JointTrajectory.deserialize(data).joint_names for data in received] == [[name]]
            eventually(lambda: not writer.matched)
            writer.write(JointTrajectory(joint_names=["too late"]))


def test_nobody_there_is_said_with_where(endpoint: str) -> None:
    with joined(endpoint) as participant:
        writer, reader = participant.writer(COMMANDS, JointTrajectory), participant.reader(STATES, JointState)
        with pytest.raises(TopicTimeout, match=rf"subscribes to /arm_controller/.*{endpoint}: nobody"):
            writer.wait_matched(0.05)
        with pytest.raises(TopicTimeout, match="publishes /joint_states"):
            reader.wait_matched(0.05)


def test_closing_is_final(endpoint: str) -> None:
    participant = joined(endpoint)
    writer, reader = participant.writer(COMMANDS, JointTrajectory), participant.reader(STATES, JointState)
    participant.close()
    participant.close()
    uses = (
        lambda: writer.write(JointTrajectory()),
        reader.take,
        lambda: participant.reader(STATES, JointState),
    )
    for use in uses:
        with pytest.raises(RobopolicyError, match="closed"):
            use()
