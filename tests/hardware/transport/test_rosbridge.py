"""The rosbridge client: both directions, garbage, a link that is lost or stands still."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")
pytest.importorskip("websockets", reason="rosbridge is the extra robopolicy[rosbridge]")

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

from hardware.transport.dds import LATCHED, STATE, Quality
from hardware.transport.idl_ros import Bool, JointState, JointTrajectory
from hardware.transport.ros_json import to_json
from hardware.transport.rosbridge import RosbridgeParticipant, RosbridgeWriter
from hardware.transport.route import Rosbridge
from hardware.transport.topics import TopicTimeout
from robopolicy.errors import RobopolicyError
from tests.hardware.wire import eventually

STATES, COMMANDS = "rt/joint_states", "rt/arm_controller/joint_trajectory"


class Fake:
    """A server that records what it is told and says what it is asked to."""

    def __init__(self, port: int = 0) -> None:
        self.told: list[dict[str, Any]] = []
        self.sockets: list[ServerConnection] = []
        self.deaf = threading.Event()
        self._server: Server = serve(self._attend, "127.0.0.1", port, max_queue=1, close_timeout=0.2)
        self.port: int = self._server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def say(self, frame: str | bytes | dict[str, Any]) -> None:
        self.sockets[-1].send(json.dumps(frame) if isinstance(frame, dict) else frame)

    def publish(self, **values: Any) -> None:
        message = to_json(JointState(**values))
        self.say({"op": "publish", "topic": "/joint_states", "msg": message})

    def operations(self, name: str) -> list[dict[str, Any]]:
        return [message for message in self.told if message["op"] == name]

    def close(self) -> None:
        self.deaf.clear()
        for socket in self.sockets:
            socket.close()
        self._server.shutdown()
        self._thread.join()

    def _attend(self, socket: ServerConnection) -> None:
        self.sockets.append(socket)
        with contextlib.suppress(ConnectionClosed):
            for frame in socket:
                self.told.append(json.loads(frame))
                while self.deaf.is_set():
                    time.sleep(0.01)


@pytest.fixture
def server() -> Iterator[Fake]:
    fake = Fake()
    yield fake
    fake.close()


@pytest.fixture
def participant(server: Fake) -> Iterator[RosbridgeParticipant]:
    with RosbridgeParticipant(Rosbridge(url=server.url)) as participant:
        yield participant


def test_it_speaks_rosbridge(server: Fake, participant: RosbridgeParticipant) -> None:
    writer = participant.writer(COMMANDS, JointTrajectory)
    participant.reader(STATES, JointState)
    participant.reader("rt/stop", Bool, LATCHED)
    writer.wait_matched(20.0)
    message = JointTrajectory(joint_names=["a"])
    writer.write(message)
    eventually(lambda: server.operations("publish"))
    topic = "/arm_controller/joint_trajectory"
    assert server.operations("advertise") == [
        {"op": "advertise", "topic": topic, "type": "trajectory_msgs/msg/JointTrajectory", "latch": False}
    ]
    state, stop = server.operations("subscribe")
    assert state.pop("type") == "sensor_msgs/msg/JointState"
    assert state == {"op": "subscribe", "topic": "/joint_states", "queue_length": 10}
    assert stop == {"op": "subscribe", "topic": "/stop", "type": "std_msgs/msg/Bool", "queue_length": 1}
    assert server.operations("publish") == [{"op": "publish", "topic": topic, "msg": to_json(message)}]


def test_messages_arrive_in_order_and_a_state_topic_keeps_the_newest(
    server: Fake, participant: RosbridgeParticipant
) -> None:
    every, newest = participant.reader(STATES, JointState), participant.reader(STATES, JointState, STATE)
    eventually(lambda: len(server.operations("subscribe")) == 2)
    for i in range(5):
        server.publish(position=[float(i)])
    eventually(lambda: every.wait(0.0))
    received: list[float] = []
    eventually(lambda: received.extend(m.position[0] for m in every.take()) or len(received) == 5)
    assert received == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert [m.position for m in newest.take()] == [[4.0]]


def test_garbage_is_counted_and_the_next_message_arrives(
    server: Fake, participant: RosbridgeParticipant
) -> None:
    reader = participant.reader(STATES, JointState, Quality(depth=50))
    eventually(lambda: server.operations("subscribe"))
    garbage: list[Any] = [
        "", "{", "[]", "[" * 100_000, b"\xff\xfe", "null", "{}",
        {"op": "publish", "topic": "/joint_states"},
        {"op": "publish", "topic": "/joint_states", "msg": {}},
        {"op": "publish", "topic": "/joint_states", "msg": {"position": "x"}},
    ]  # fmt: skip
    for frame in garbage:
        server.say(frame)
    for harmless in ({"op": "publish", "topic": ["/other"], "msg": {}}, {"op": "novel"}, {"op": 5}):
        server.say(harmless)
    server.publish(name=["last"])
    names: list[str] = []
    eventually(lambda: names.extend(n for m in reader.take() for n in m.name) or names)
    assert names == ["last"]
    assert reader.rejected == len(garbage)


def test_a_lost_link_is_taken_up_again_and_nothing_old_is_sent(
    server: Fake, participant: RosbridgeParticipant
) -> None:
    reader, writer = participant.reader(STATES, JointState), participant.writer(COMMANDS, JointTrajectory)
    eventually(lambda: server.operations("subscribe"))
    server.publish(name=["before"])
    reader.wait_matched(20.0)
    server.close()
    eventually(lambda: not writer.matched and not reader.matched)
    writer.write(JointTrajectory(joint_names=["too late"]))
    again = Fake(server.port)
    try:
        writer.wait_matched(20.0)
        writer.write(JointTrajectory(joint_names=["fresh"]))
        eventually(lambda: again.operations("publish"))
        assert [message["op"] for message in again.told[:2]] == ["subscribe", "advertise"]
        assert [m["msg"]["joint_names"] for m in again.operations("publish")] == [["fresh"]]
        again.publish(name=["after"])
        reader.wait_matched(20.0)
        assert [m.name for m in reader.take()] == [["before"], ["after"]]
    finally:
        participant.close()
        again.close()


def test_a_server_that_stands_still_blocks_nobody(server: Fake, participant: RosbridgeParticipant) -> None:
    writer = participant.writer(COMMANDS, JointTrajectory)
    writer.wait_matched(20.0)
    assert isinstance(writer, RosbridgeWriter)
    server.deaf.set()
    # More than the buffers of both sides' kernels hold; the fake reads nothing.
    long = JointTrajectory(joint_names=["x" * 100_000])
    for i in range(200):
        long.header.stamp.sec = i
        writer.write(long)
        time.sleep(0.001)
    waiting = [json.loads(text)["msg"]["header"]["stamp"]["sec"] for text in tuple(writer.waiting)]
    assert waiting == list(range(190, 200))
    participant.close()
    with pytest.raises(RobopolicyError, match="closed"):
        writer.write(long)


def test_nobody_there_is_said_with_the_reason(server: Fake) -> None:
    url = server.url
    server.close()
    with RosbridgeParticipant(Rosbridge(url=url)) as participant:
        writer, reader = participant.writer(COMMANDS, JointTrajectory), participant.reader(STATES, JointState)
        with pytest.raises(TopicTimeout, match=rf"subscribes to /arm_.*{url}: .*Connect call"):
            writer.wait_matched(0.3)
        with pytest.raises(TopicTimeout, match=r"Nobody publishes /joint_states"):
            reader.wait_matched(0.01)


def test_what_the_server_complains_about_is_passed_on(
    server: Fake, participant: RosbridgeParticipant
) -> None:
    reader = participant.reader(STATES, JointState)
    eventually(lambda: server.operations("subscribe"))
    server.say({"op": "status", "level": "error", "msg": "no such type"})
    eventually(lambda: "no such type" in reader._advice())
    with pytest.raises(TopicTimeout, match="no such type"):
        reader.wait_matched(0.0)


def test_closing_sends_what_waits_joins_and_is_final(server: Fake) -> None:
    participant = RosbridgeParticipant(Rosbridge(url=server.url))
    writer, reader = participant.writer(COMMANDS, JointTrajectory), participant.reader(STATES, JointState)
    writer.wait_matched(20.0)
    for i in range(5):
        writer.write(JointTrajectory(joint_names=[str(i)]))
    participant.close()
    participant.close()
    assert not any(thread.name == "rosbridge" for thread in threading.enumerate())
    eventually(lambda: len(server.operations("publish")) == 5)
    for use in (lambda: writer.matched, reader.take, lambda: participant.reader(STATES, JointState)):
        with pytest.raises(RobopolicyError, match="closed"):
            use()
