"""Unitree's humanoid messages (`unitree_hg`) and remote calls (`unitree_api`).

`LowCmd` and `LowState` are sent 500 times a second, so they are NumPy records in the layout of the robot's C
structs and become wire bytes by cutting the padding out: a few microseconds, where the generic serialiser
takes hundreds. Their checksum is set on the way out and verified on the way in; what fails it raises
`CorruptMessage`, which `hardware.transport.dds.Reader` counts and drops.

Sources: unitree_sdk2 and unitree_ros2 (IDL, checksum). Octets are ``types.byte``: `idl_ros` says why.
"""

import zlib  # no postponed annotations: Cyclone needs the field types at once
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from hardware.transport import idl_types as types

__all__ = [
    "MOTOR_SLOTS",
    "CorruptMessage",
    "ImuStateIdl",
    "LowCmd",
    "LowCmdIdl",
    "LowState",
    "LowStateIdl",
    "MotorCmdIdl",
    "MotorStateIdl",
    "Request",
    "RequestHeader",
    "RequestIdentity",
    "RequestLease",
    "RequestPolicy",
    "Response",
    "ResponseHeader",
    "ResponseStatus",
    "checksum",
]

MOTOR_SLOTS = 35
_LITTLE_ENDIAN_CDR = b"\x00\x01\x00\x00"
_BIT_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


class CorruptMessage(ValueError):
    """Bytes that are not the message they should be: wrong length, encoding or checksum."""


def checksum(image: bytes) -> int:
    """Unitree's CRC-32 of a C struct without its last word.

    Polynomial 0x04C11DB7, start 0xFFFFFFFF, over little-endian words, most significant bit first, nothing
    reflected, nothing inverted at the end. zlib's CRC is the reflected one: bits go in and come out reversed.
    """
    words = np.frombuffer(image, "<u4").byteswap().tobytes()
    reflected = zlib.crc32(words.translate(_BIT_REVERSED)) ^ 0xFFFFFFFF
    return int.from_bytes(reflected.to_bytes(4, "little").translate(_BIT_REVERSED), "big")


@dataclass
@types.final
class MotorCmdIdl(types.IdlStruct, typename="unitree_hg.msg.dds_.MotorCmd_"):
    """One motor's target."""

    mode: types.byte
    q: types.float32
    dq: types.float32
    tau: types.float32
    kp: types.float32
    kd: types.float32
    reserve: types.uint32


@dataclass
@types.final
class LowCmdIdl(types.IdlStruct, typename="unitree_hg.msg.dds_.LowCmd_"):
    """The type that `LowCmd` is announced as."""

    mode_pr: types.byte
    mode_machine: types.byte
    motor_cmd: types.array[MotorCmdIdl, MOTOR_SLOTS]
    reserve: types.array[types.uint32, 4]
    crc: types.uint32


@dataclass
@types.final
class ImuStateIdl(types.IdlStruct, typename="unitree_hg.msg.dds_.IMUState_"):
    """The pelvis' orientation (real part first), rad/s, m/s^2."""

    quaternion: types.array[types.float32, 4]
    gyroscope: types.array[types.float32, 3]
    accelerometer: types.array[types.float32, 3]
    rpy: types.array[types.float32, 3]
    temperature: types.int16


@dataclass
@types.final
class MotorStateIdl(types.IdlStruct, typename="unitree_hg.msg.dds_.MotorState_"):
    """One motor's measurement."""

    mode: types.byte
    q: types.float32
    dq: types.float32
    ddq: types.float32
    tau_est: types.float32
    temperature: types.array[types.int16, 2]
    vol: types.float32
    sensor: types.array[types.uint32, 2]
    motorstate: types.uint32
    reserve: types.array[types.uint32, 4]


@dataclass
@types.final
class LowStateIdl(types.IdlStruct, typename="unitree_hg.msg.dds_.LowState_"):
    """The type that `LowState` is announced as."""

    version: types.array[types.uint32, 2]
    mode_pr: types.byte
    mode_machine: types.byte
    tick: types.uint32
    imu_state: ImuStateIdl
    motor_state: types.array[MotorStateIdl, MOTOR_SLOTS]
    wireless_remote: types.array[types.byte, 40]
    reserve: types.array[types.uint32, 4]
    crc: types.uint32


_MOTOR_CMD = np.dtype(
    [("mode", "u1"), *((name, "<f4") for name in ("q", "dq", "tau", "kp", "kd")), ("reserve", "<u4")],
    align=True,
)
_LOW_CMD = np.dtype(
    [
        ("mode_pr", "u1"),
        ("mode_machine", "u1"),
        ("motor_cmd", _MOTOR_CMD, MOTOR_SLOTS),
        ("reserve", "<u4", 4),
        ("crc", "<u4"),
    ],
    align=True,
)
_IMU_STATE = np.dtype(
    [
        ("quaternion", "<f4", 4),
        ("gyroscope", "<f4", 3),
        ("accelerometer", "<f4", 3),
        ("rpy", "<f4", 3),
        ("temperature", "<i2"),
    ],
    align=True,
)
_MOTOR_STATE = np.dtype(
    [
        ("mode", "u1"),
        *((name, "<f4") for name in ("q", "dq", "ddq", "tau_est")),
        ("temperature", "<i2", 2),
        ("vol", "<f4"),
        ("sensor", "<u4", 2),
        ("motorstate", "<u4"),
        ("reserve", "<u4", 4),
    ],
    align=True,
)
_LOW_STATE = np.dtype(
    [
        ("version", "<u4", 2),
        ("mode_pr", "u1"),
        ("mode_machine", "u1"),
        ("tick", "<u4"),
        ("imu_state", _IMU_STATE),
        ("motor_state", _MOTOR_STATE, MOTOR_SLOTS),
        ("wireless_remote", "u1", 40),
        ("reserve", "<u4", 4),
        ("crc", "<u4"),
    ],
    align=True,
)


class _Record:
    """A message kept as one NumPy record in the C layout. Fields are reached through `record`."""

    layout: ClassVar[np.dtype]
    cut: ClassVar[int]
    """Where the C struct starts to differ from CDR, which does not pad before nested structs: of the next six
    bytes CDR has only the middle two."""
    sample_info: Any = None

    def __init__(self, record: np.ndarray | None = None) -> None:
        self.record = np.zeros((), self.layout) if record is None else record

    def serialize(self, *_: Any, **__: Any) -> bytes:
        """Wire bytes; sets the checksum."""
        image = self.record.tobytes()
        crc = checksum(image[:-4])
        self.record["crc"] = crc
        cut = self.cut
        return b"".join(
            (
                _LITTLE_ENDIAN_CDR,
                image[:cut],
                image[cut + 2 : cut + 4],
                image[cut + 6 : -4],
                crc.to_bytes(4, "little"),
            )
        )

    @classmethod
    def deserialize(cls, data: bytes, *_: Any, **__: Any) -> Self:
        """A message from wire bytes.

        Raises:
            CorruptMessage: length, encoding or checksum is wrong.
        """
        expected = cls.layout.itemsize  # four bytes of encapsulation instead of four of padding
        if len(data) != expected:
            raise CorruptMessage(f"{cls.__name__} is {expected} bytes, got {len(data)}.")
        if data[:2] != _LITTLE_ENDIAN_CDR[:2]:
            raise CorruptMessage(f"{cls.__name__} must be little-endian CDR, got encapsulation {data[:2]!r}.")
        middle = cls.cut + len(_LITTLE_ENDIAN_CDR)
        image = b"".join((data[4:middle], b"\0\0", data[middle : middle + 2], b"\0\0", data[middle + 2 :]))
        crc = int.from_bytes(image[-4:], "little")
        if checksum(image[:-4]) != crc:
            raise CorruptMessage(f"{cls.__name__} fails its checksum ({crc:#010x}).")
        return cls(np.frombuffer(image, cls.layout)[0])


class LowCmd(_Record, LowCmdIdl):
    """Targets of all motors; ``record["motor_cmd"]`` is a structured array `[35]`."""

    layout = _LOW_CMD
    cut = 2

    @property
    def motors(self) -> np.ndarray:
        """mode, q, dq, tau, kp, kd of every slot, a view `[35]`."""
        return self.record["motor_cmd"]


class LowState(_Record, LowStateIdl):
    """Measurements of all motors and the IMU."""

    layout = _LOW_STATE
    cut = 70

    @property
    def motors(self) -> np.ndarray:
        """mode, q, dq, tau_est and more of every slot, a view `[35]`."""
        return self.record["motor_state"]


# Announced and matched as the type they stand for.
LowCmd.__idl__ = LowCmdIdl.__idl__
LowState.__idl__ = LowStateIdl.__idl__


@dataclass
@types.final
class RequestIdentity(types.IdlStruct, typename="unitree_api.msg.dds_.RequestIdentity_"):
    """Which call, of which function."""

    id: types.int64 = 0
    api_id: types.int64 = 0


@dataclass
@types.final
class RequestLease(types.IdlStruct, typename="unitree_api.msg.dds_.RequestLease_"):
    """Unused by the humanoid's services."""

    id: types.int64 = 0


@dataclass
@types.final
class RequestPolicy(types.IdlStruct, typename="unitree_api.msg.dds_.RequestPolicy_"):
    """Priority, and whether an answer is wanted."""

    priority: types.int32 = 0
    noreply: bool = False


@dataclass
@types.final
class RequestHeader(types.IdlStruct, typename="unitree_api.msg.dds_.RequestHeader_"):
    """Everything about a call but its arguments."""

    identity: RequestIdentity = field(default_factory=RequestIdentity)
    lease: RequestLease = field(default_factory=RequestLease)
    policy: RequestPolicy = field(default_factory=RequestPolicy)


@dataclass
@types.final
class Request(types.IdlStruct, typename="unitree_api.msg.dds_.Request_"):
    """A call; `parameter` is JSON."""

    header: RequestHeader = field(default_factory=RequestHeader)
    parameter: str = ""
    binary: types.sequence[types.byte] = field(default_factory=list)


@dataclass
@types.final
class ResponseStatus(types.IdlStruct, typename="unitree_api.msg.dds_.ResponseStatus_"):
    """0, or what went wrong."""

    code: types.int32 = 0


@dataclass
@types.final
class ResponseHeader(types.IdlStruct, typename="unitree_api.msg.dds_.ResponseHeader_"):
    """The call that is answered, and how it went."""

    identity: RequestIdentity = field(default_factory=RequestIdentity)
    status: ResponseStatus = field(default_factory=ResponseStatus)


@dataclass
@types.final
class Response(types.IdlStruct, typename="unitree_api.msg.dds_.Response_"):
    """An answer; `data` is JSON."""

    header: ResponseHeader = field(default_factory=ResponseHeader)
    data: str = ""
    binary: types.sequence[types.byte] = field(default_factory=list)
