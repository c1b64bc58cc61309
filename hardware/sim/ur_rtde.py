"""A simulated Universal Robots arm that the unmodified `ur_rtde` client accepts.

    python -m hardware.sim.ur_rtde --host 127.0.0.7

RTDE version 2 on port 30004 (states at 500 Hz, commands through input registers), the dashboard on 29999, and
the script port 30003, which starts the client's control program. Joints follow `servoJ` targets at limited
speed and acceleration; there are no dynamics. As on the robot, the program stops when the client's watchdog
is not fed.

Sources: Universal Robots' RTDE guide (packages, variables), ur_rtde (registers and commands of its program).
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable

import numpy as np

from hardware.process import ticks

__all__ = [
    "ACCELERATION",
    "DASHBOARD_PORT",
    "FASTEST",
    "HOME",
    "RTDE_PORT",
    "SCRIPT_PORT",
    "STATE_HZ",
    "SimulatedUr",
    "main",
]

RTDE_PORT, DASHBOARD_PORT, SCRIPT_PORT = 30004, 29999, 30003
STATE_HZ = 500
HOME = np.array([0.0, -1.5708, 1.5708, -1.5708, -1.5708, 0.0])
FASTEST, ACCELERATION = 3.14, 20.0
"""rad/s and rad/s^2 of every joint."""
_TRACKING = 30.0  # 1/s: a real arm's servoJ lags by about 33 ms, too
_SERVO_J, _SERVO_STOP, _SET_WATCHDOG, _STOP_SCRIPT = 11, 16, 35, 255
_READY, _DONE = 1, 2
_POWER_ON, _PROGRAM_RUNNING = 1, 2
_FORMATS = {
    "DOUBLE": "d",
    "VECTOR6D": "6d",
    "VECTOR3D": "3d",
    "VECTOR6INT32": "6i",
    "INT32": "i",
    "UINT32": "I",
    "UINT64": "Q",
    "UINT8": "B",
    "BOOL": "?",
}
_TYPES = {
    "timestamp": "DOUBLE",
    "robot_mode": "INT32",
    "safety_mode": "INT32",
    "joint_mode": "VECTOR6INT32",
    "robot_status_bits": "UINT32",
    "safety_status_bits": "UINT32",
    "runtime_state": "UINT32",
    "actual_digital_input_bits": "UINT64",
    "actual_digital_output_bits": "UINT64",
    "speed_slider_mask": "UINT32",
    "actual_tool_accelerometer": "VECTOR3D",
    "elbow_position": "VECTOR3D",
    "elbow_velocity": "VECTOR3D",
    "payload_cog": "VECTOR3D",
    "tool_mode": "UINT32",
}
"""Where the name does not tell: see `_type_of`."""


class SimulatedUr:
    """The arm and its three servers; `step` is 2 ms."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.q, self.dq = HOME.copy(), np.zeros(6)
        self.running = False
        """Whether the client's program runs."""
        self.commands = 0
        self._target: np.ndarray | None = None
        self._ready = _READY
        self._watchdog_s, self._fed_ns = 0.0, 0
        self._tick = 0
        self._clients: list[tuple[socket.socket, int, list[str]]] = []
        self._lock = threading.Lock()
        self._servers = [
            _serve(host, port, handler)
            for port, handler in (
                (RTDE_PORT, self._rtde),
                (DASHBOARD_PORT, self._dashboard),
                (SCRIPT_PORT, self._script),
            )
        ]

    def step(self) -> None:
        """Advance by 2 ms and send the state to every client."""
        dt = 1.0 / STATE_HZ
        with self._lock:
            starved = self._watchdog_s > 0 and time.monotonic_ns() - self._fed_ns > 1e9 * self._watchdog_s
            if starved and self.running:
                self.running, self._target = False, None
            goal = self.q if self._target is None else self._target
            wanted = np.clip(_TRACKING * (goal - self.q), -FASTEST, FASTEST)
            self.dq += np.clip(wanted - self.dq, -ACCELERATION * dt, ACCELERATION * dt)
            self.q = self.q + self.dq * dt
            self._tick += 1
            clients = list(self._clients)
        for client, recipe, names in clients:
            body = struct.pack(">B", recipe) + b"".join(self._value(name) for name in names)
            try:
                client.sendall(_package(b"U", body))
            except OSError:
                with self._lock:
                    self._clients = [kept for kept in self._clients if kept[0] is not client]

    def close(self) -> None:
        """Stop listening and hang up."""
        for server in self._servers:
            server.close()
        for client, _, _ in self._clients:
            client.close()

    def _value(self, name: str) -> bytes:
        kind = _type_of(name)
        if name in ("actual_q", "target_q"):
            value: tuple[float, ...] = tuple(self.q)
        elif name in ("actual_qd", "target_qd"):
            value = tuple(self.dq)
        elif name == "timestamp":
            value = (self._tick / STATE_HZ,)
        elif name == "robot_mode":
            value = (7,)
        elif name in ("safety_mode", "safety_status_bits"):
            value = (1,)
        elif name == "robot_status_bits":
            value = (_POWER_ON | (_PROGRAM_RUNNING if self.running else 0),)
        elif name == "runtime_state":
            value = (2 if self.running else 1,)
        elif name in ("output_int_register_0", "output_int_register_24"):
            value = (self._ready,)
        elif name in ("speed_scaling", "target_speed_fraction"):
            value = (1.0,)
        else:
            return bytes(struct.calcsize(">" + _FORMATS[kind]))
        return struct.pack(">" + _FORMATS[kind], *value)

    def _rtde(self, connection: socket.socket) -> None:
        outputs: list[str] = []
        inputs: dict[int, list[str]] = {}
        while True:
            kind, body = _receive(connection)
            if kind == b"V":
                connection.sendall(_package(b"V", b"\x01"))
            elif kind == b"v":
                connection.sendall(_package(b"v", struct.pack(">4I", 5, 11, 0, 0)))
            elif kind == b"O":
                outputs = _names(body[8:])
                connection.sendall(_package(b"O", b"\x01" + _types(outputs)))
            elif kind == b"I":
                recipe = len(inputs) + 1
                inputs[recipe] = _names(body)
                connection.sendall(_package(b"I", bytes([recipe]) + _types(inputs[recipe])))
            elif kind == b"S":
                connection.sendall(_package(b"S", b"\x01"))
                with self._lock:
                    self._clients.append((connection, 1, outputs))
            elif kind == b"P":
                with self._lock:
                    self._clients = [kept for kept in self._clients if kept[0] is not connection]
                connection.sendall(_package(b"P", b"\x01"))
            elif kind == b"U":
                self._command(inputs[body[0]], body[1:])

    def _command(self, names: list[str], body: bytes) -> None:
        values: dict[str, float] = {}
        offset = 0
        for name in names:
            layout = ">" + _FORMATS[_type_of(name)]
            values[name] = struct.unpack_from(layout, body, offset)[0]
            offset += struct.calcsize(layout)
        command = next((int(v) for n, v in values.items() if n.startswith("input_int_register")), None)
        numbers = [v for n, v in values.items() if n.startswith("input_double_register")]
        with self._lock:
            self._fed_ns = time.monotonic_ns()
            self.commands += 1
            if command == _STOP_SCRIPT:
                self.running, self._target = False, None
            elif command == _SERVO_J and self.running:
                self._target = np.array(numbers[:6])
            elif command == _SERVO_STOP:
                self._target = None
            elif command == _SET_WATCHDOG and numbers:
                self._watchdog_s = 1.0 / max(numbers[0], 1e-3)
            if command is not None:
                self._ready = _READY if command in (0, _SERVO_J) else _DONE

    def _dashboard(self, connection: socket.socket) -> None:
        connection.sendall(b"Connected: Universal Robots Dashboard Server\n")
        answers = {
            "polyscopeversion": "URSoftware 5.11.0.0 (Jan 01 2022)",
            "get serial number": "20220000001",
            "get robot model": "UR5",
            "is in remote control": "true",
            "robotmode": "Robotmode: RUNNING",
            "safetymode": "Safetymode: NORMAL",
            "safetystatus": "Safetystatus: NORMAL",
            "running": "Program running: false",
        }
        for line in connection.makefile(encoding="utf-8"):
            connection.sendall((answers.get(line.strip().lower(), "ok") + "\n").encode())

    def _script(self, connection: socket.socket) -> None:
        while connection.recv(65536):
            with self._lock:
                self.running, self._ready, self._watchdog_s = True, _READY, 0.0


def _type_of(name: str) -> str:
    if name in _TYPES:
        return _TYPES[name]
    if "bit_register" in name:
        return "UINT32" if "to" in name else "BOOL"
    if "int_register" in name:
        return "INT32"
    if "double_register" in name or ("analog_output_" in name and name[-1].isdigit()):
        return "DOUBLE"
    if "mask" in name or "digital_output" in name or name.endswith("output_type"):
        return "UINT8"
    vectors = ("_q", "_qd", "_qdd", "_current", "_moment", "_TCP_pose", "_TCP_speed", "_TCP_force")
    if name.endswith(vectors) or name in (
        "joint_control_output",
        "joint_temperatures",
        "actual_joint_voltage",
    ):
        return "VECTOR6D"
    return "DOUBLE"


def _names(listed: bytes) -> list[str]:
    return [name for name in listed.decode().split(",") if name]


def _types(names: list[str]) -> bytes:
    return ",".join(_type_of(name) for name in names).encode()


def _package(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">H", 3 + len(body)) + kind + body


def _receive(connection: socket.socket) -> tuple[bytes, bytes]:
    head = _exactly(connection, 3)
    return head[2:], _exactly(connection, struct.unpack(">H", head[:2])[0] - 3)


def _exactly(connection: socket.socket, count: int) -> bytes:
    parts = b""
    while len(parts) < count:
        part = connection.recv(count - len(parts))
        if not part:
            raise ConnectionError("the client has gone")
        parts += part
    return parts


def _serve(host: str, port: int, handle: Callable[[socket.socket], None]) -> socket.socket:
    server = socket.create_server((host, port))

    def accept() -> None:
        with contextlib.suppress(OSError):  # the server was closed
            while True:
                connection, _ = server.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=converse, args=(connection,), daemon=True).start()

    def converse(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:  # the client hung up
            handle(connection)

    threading.Thread(target=accept, daemon=True).start()
    return server


def main() -> None:
    """Simulate until told to end."""
    parser = argparse.ArgumentParser(description="A simulated Universal Robots arm for ur_rtde.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    robot = SimulatedUr(parser.parse_args().host)
    for _ in ticks(1_000_000_000 // STATE_HZ):
        robot.step()
    robot.close()


if __name__ == "__main__":
    main()
