"""The simulated rosbridge: roslibpy, unmodified, talks to DDS through it, and it says what it cannot do."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")
pytest.importorskip("websockets", reason="rosbridge is the extra robopolicy[rosbridge]")

from websockets.sync.client import connect

from hardware.sim.rosbridge import RosbridgeServer, RosbridgeSettings
from hardware.transport.dds import LATCHED, SENSOR, Participant
from hardware.transport.idl_ros import Bool, Header, Image, JointState, Time
from tests.hardware.wire import eventually, free_network


@pytest.fixture
def dds() -> Iterator[Participant]:
    with Participant(free_network()) as participant:
        yield participant


@pytest.fixture
def server(dds: Participant) -> Iterator[RosbridgeServer]:
    with (
        Participant(dds.network) as participant,
        RosbridgeServer(RosbridgeSettings(port=0), participant) as server,
    ):
        yield server


def test_roslibpy_talks_to_dds_through_it(dds: Participant, server: RosbridgeServer) -> None:
    roslibpy = pytest.importorskip("roslibpy", reason="another's client, of robopolicy[dev]")
    ros = roslibpy.Ros(host="127.0.0.1", port=server.port)
    ros.run(timeout=20)
    try:
        heard: list[dict[str, Any]] = []
        states = dds.writer("rt/joint_states", JointState)
        roslibpy.Topic(ros, "/joint_states", "sensor_msgs/JointState").subscribe(heard.append)
        states.wait_matched(20.0)
        states.write(JointState(Header(Time(3, 4), "base"), ["a"], [0.5], [float("nan")]))
        eventually(lambda: heard)
        header = {"stamp": {"sec": 3, "nanosec": 4}, "frame_id": "base"}
        assert heard == [
            {"header": header, "name": ["a"], "position": [0.5], "velocity": [None], "effort": []}
        ]

        pictures = dds.reader("rt/image", Image, SENSOR)
        topic = roslibpy.Topic(ros, "/image", "sensor_msgs/msg/Image")
        topic.advertise()
        pictures.wait_matched(20.0)
        topic.publish(roslibpy.Message({"header": header, "height": 1, "data": "AP8Q"}))
        assert pictures.wait(20.0)
        (picture,) = pictures.take()
        assert (picture.header.stamp, picture.height, picture.data) == (Time(3, 4), 1, b"\x00\xff\x10")
        topic.unadvertise()
        eventually(lambda: not pictures.matched)

        refusals: list[Any] = []
        service = roslibpy.Service(ros, "/rosapi/topics", "rosapi/Topics")
        service.call(roslibpy.ServiceRequest(), lambda found: None, refusals.append)
        eventually(lambda: refusals)
        assert refusals == ["no services"]
    finally:
        ros.close()


def test_late_clients_get_what_is_latched_and_leave_nothing(
    dds: Participant, server: RosbridgeServer
) -> None:
    dds.writer("rt/stop", Bool, LATCHED).write(Bool(True))
    dds_reader = dds.reader("rt/told", Bool)
    with connect(f"ws://127.0.0.1:{server.port}") as client:
        client.send(json.dumps({"op": "subscribe", "topic": "/stop", "type": "std_msgs/msg/Bool"}))
        assert json.loads(client.recv(20.0)) == {"op": "publish", "topic": "/stop", "msg": {"data": True}}
        client.send(json.dumps({"op": "unsubscribe", "topic": "/stop"}))
        client.send(json.dumps({"op": "advertise", "topic": "/told", "type": "std_msgs/Bool"}))
        dds_reader.wait_matched(20.0)
    eventually(lambda: not dds_reader.matched)
    eventually(lambda: not any("_forward" in thread.name for thread in threading.enumerate()))


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ({"op": "paint"}, "no operation 'paint'"),
        ({"op": "publish", "topic": "/silent", "msg": {}}, "KeyError: '/silent'"),
        ({"op": "subscribe", "topic": "/x", "type": "my_msgs/msg/Own"}, "no message type 'my_msgs/msg/Own'"),
    ],
)
def test_what_it_cannot_do_is_said(server: RosbridgeServer, frame: Any, complaint: str) -> None:
    with connect(f"ws://127.0.0.1:{server.port}") as client:
        client.send(frame if isinstance(frame, str) else json.dumps(frame))
        answer = json.loads(client.recv(20.0))
    assert (answer["op"], answer["level"]) == ("status", "error")
    assert complaint in answer["msg"]
