"""A rosbridge server for simulated robots: websocket clients on one side, DDS topics on the other.

    python -m hardware.sim.rosbridge --domain 7 --port 9090

It speaks the part of rosbridge v2 that is about topics (advertise, publish, subscribe and their opposites),
knows the messages of `hardware.transport.idl_ros`, has no services, and listens on the loopback alone.
"""

from __future__ import annotations

import contextlib
import json
import threading
from dataclasses import dataclass
from typing import Any, Self

from hardware.extras import require
from hardware.process import settings, ticks
from hardware.robots.streams import dds_name
from hardware.transport import idl_ros
from hardware.transport.dds import LATCHED, RELIABLE, Participant, Quality, Reader, Writer
from hardware.transport.idl_types import IdlStruct
from hardware.transport.ros_json import from_json, to_json
from hardware.transport.topics import MALFORMED, ros_type
from robopolicy.errors import RobopolicyError

require("websockets", extra="rosbridge", purpose="The simulated rosbridge")

from websockets.exceptions import ConnectionClosed  # noqa: E402
from websockets.sync.server import ServerConnection, serve  # noqa: E402

__all__ = ["KINDS", "RosbridgeServer", "RosbridgeSettings", "main"]

KINDS: dict[str, Any] = {
    ros_type(kind): kind
    for kind in vars(idl_ros).values()
    if isinstance(kind, type) and issubclass(kind, IdlStruct) and kind is not IdlStruct
}
# rosbridge asks the ROS graph which publishers are latched, and reads the others best effort.
_LATCHED_TOPICS = ("/stop",)
_LOOK_S = 0.1


@dataclass(frozen=True, kw_only=True)
class RosbridgeSettings:
    """What `python -m hardware.sim.rosbridge` can be told."""

    port: int = 9090


class RosbridgeServer:
    """Serves websocket clients until it is closed; each has threads of its own."""

    def __init__(self, config: RosbridgeSettings, participant: Participant) -> None:
        self._participant = participant
        self._clients: dict[ServerConnection, threading.Thread] = {}
        self._server = serve(self._attend, "127.0.0.1", config.port, compression=None, close_timeout=0.5)
        self.port: int = self._server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hang up, and wait until no client uses DDS any more."""
        for socket, thread in tuple(self._clients.items()):
            socket.close()
            thread.join()
        self._server.shutdown()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _attend(self, socket: ServerConnection) -> None:
        client = _Client(self._participant, socket)
        self._clients[socket] = threading.current_thread()
        try:
            with contextlib.suppress(ConnectionClosed):  # it may hang up without a word
                for frame in socket:
                    client.heed(frame)
        finally:
            client.leave()
            del self._clients[socket]


class _Client:
    """What one client publishes and subscribes."""

    def __init__(self, participant: Participant, socket: ServerConnection) -> None:
        self._participant, self._socket = participant, socket
        self._writers: dict[str, tuple[Any, Writer[Any]]] = {}
        self._readers: dict[str, tuple[Reader[Any], threading.Thread, threading.Event]] = {}

    def heed(self, frame: str | bytes) -> None:
        """Do what a message asks for, or say why not."""
        message: dict[str, Any] = {}
        try:
            message = json.loads(frame)
            self._do(message)
        except (*MALFORMED, RobopolicyError) as error:
            told = message.get("id") if isinstance(message, dict) else None
            self._say(op="status", level="error", msg=f"{type(error).__name__}: {error}", id=told)

    def leave(self) -> None:
        """Forget the client."""
        for topic in list(self._readers):
            self._unsubscribe(topic)
        for _, writer in self._writers.values():
            writer.close()

    def _do(self, message: dict[str, Any]) -> None:
        operation, topic = message["op"], message.get("topic", "")
        if operation == "advertise":
            if topic not in self._writers:
                kind = _kind(message["type"])
                quality = LATCHED if message.get("latch") else RELIABLE
                self._writers[topic] = kind, self._participant.writer(dds_name(topic), kind, quality)
        elif operation == "publish":
            kind, writer = self._writers[topic]
            writer.write(from_json(kind, message["msg"], partial=True))
        elif operation == "subscribe":
            if topic not in self._readers:
                self._subscribe(topic, _kind(message["type"]), message.get("queue_length") or 10)
        elif operation == "unadvertise":
            self._writers.pop(topic)[1].close()
        elif operation == "unsubscribe":
            self._unsubscribe(topic)
        elif operation == "call_service":
            service, told = message["service"], message.get("id")
            self._say(op="service_response", id=told, service=service, values="no services", result=False)
        else:
            raise ValueError(f"no operation {operation!r}")

    def _subscribe(self, topic: str, kind: Any, depth: int) -> None:
        quality = LATCHED if topic in _LATCHED_TOPICS else Quality(reliable=False, depth=depth)
        reader: Reader[Any] = self._participant.reader(dds_name(topic), kind, quality)
        ended = threading.Event()
        thread = threading.Thread(target=self._forward, args=(topic, reader, ended), daemon=True)
        self._readers[topic] = reader, thread, ended
        thread.start()

    def _unsubscribe(self, topic: str) -> None:
        reader, thread, ended = self._readers.pop(topic)
        ended.set()
        thread.join()
        reader.close()

    def _forward(self, topic: str, reader: Reader[Any], ended: threading.Event) -> None:
        while not ended.is_set():
            if reader.wait(_LOOK_S):
                for message in reader.take():
                    self._say(op="publish", topic=topic, msg=to_json(message))

    def _say(self, **message: Any) -> None:
        text = json.dumps({key: item for key, item in message.items() if item is not None})
        with contextlib.suppress(ConnectionClosed):  # which `_attend` notices as well
            self._socket.send(text)


def _kind(name: str) -> Any:
    """The class of ``sensor_msgs/msg/JointState``, or as older clients have it ``sensor_msgs/JointState``."""
    package, *_, kind = name.split("/")
    if (full := f"{package}/msg/{kind}") not in KINDS:
        raise ValueError(f"no message type {name!r}")
    return KINDS[full]


def main() -> None:
    """Serve until told to end."""
    config, network = settings(RosbridgeSettings, "A rosbridge server for simulated robots.")
    with Participant(network) as participant, RosbridgeServer(config, participant):
        for _ in ticks(round(1e9 * _LOOK_S)):
            pass


if __name__ == "__main__":
    main()
