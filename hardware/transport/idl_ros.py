"""The ROS 2 messages used here, as DDS types: names, fields and bytes are those of ROS 2.

Octets are ``types.byte``, never ``types.uint8``: Cyclone 11 announces the latter as a type that Cyclone 0.10
(ROS 2 Humble and Jazzy, Unitree) does not know, and such peers silently never match.
"""

from dataclasses import (  # no postponed annotations: Cyclone needs the field types at once
    dataclass,
    field,
    replace,
)
from typing import Any, Self

from hardware.transport import idl_types as types

__all__ = [
    "Bool",
    "Duration",
    "Header",
    "Image",
    "Int64",
    "JointState",
    "JointTrajectory",
    "JointTrajectoryPoint",
    "Point",
    "Pose",
    "PoseStamped",
    "Quaternion",
    "Time",
    "Transform",
    "TransformStamped",
    "Vector3",
]

_NANO = 1_000_000_000


@dataclass
@types.final
class Time(types.IdlStruct, typename="builtin_interfaces.msg.dds_.Time_"):
    """Wall-clock time."""

    sec: types.int32 = 0
    nanosec: types.uint32 = 0

    @classmethod
    def from_ns(cls, ns: int) -> Self:
        """Nanoseconds since the epoch, as `time.time_ns` counts them."""
        return cls(*divmod(ns, _NANO))

    @property
    def ns(self) -> int:
        """Nanoseconds since the epoch."""
        return self.sec * _NANO + self.nanosec


@dataclass
@types.final
class Duration(types.IdlStruct, typename="builtin_interfaces.msg.dds_.Duration_"):
    """A length of time."""

    sec: types.int32 = 0
    nanosec: types.uint32 = 0

    @classmethod
    def from_ns(cls, ns: int) -> Self:
        """A length in nanoseconds."""
        return cls(*divmod(ns, _NANO))

    @property
    def ns(self) -> int:
        """The length in nanoseconds."""
        return self.sec * _NANO + self.nanosec


@dataclass
@types.final
class Header(types.IdlStruct, typename="std_msgs.msg.dds_.Header_"):
    """When and in which frame."""

    stamp: Time = field(default_factory=Time)
    frame_id: str = ""


@dataclass
@types.final
class Bool(types.IdlStruct, typename="std_msgs.msg.dds_.Bool_"):
    """std_msgs/Bool."""

    data: bool = False


@dataclass
@types.final
class Int64(types.IdlStruct, typename="std_msgs.msg.dds_.Int64_"):
    """std_msgs/Int64."""

    data: types.int64 = 0


@dataclass
@types.final
class JointState(types.IdlStruct, typename="sensor_msgs.msg.dds_.JointState_"):
    """sensor_msgs/JointState: rad (m), rad/s, N m, by name in any order."""

    header: Header = field(default_factory=Header)
    name: types.sequence[str] = field(default_factory=list)
    position: types.sequence[types.float64] = field(default_factory=list)
    velocity: types.sequence[types.float64] = field(default_factory=list)
    effort: types.sequence[types.float64] = field(default_factory=list)


@dataclass
@types.final
class JointTrajectoryPoint(types.IdlStruct, typename="trajectory_msgs.msg.dds_.JointTrajectoryPoint_"):
    """Positions and velocities of all joints at one time after the trajectory's start."""

    positions: types.sequence[types.float64] = field(default_factory=list)
    velocities: types.sequence[types.float64] = field(default_factory=list)
    accelerations: types.sequence[types.float64] = field(default_factory=list)
    effort: types.sequence[types.float64] = field(default_factory=list)
    time_from_start: Duration = field(default_factory=Duration)


@dataclass
@types.final
class JointTrajectory(types.IdlStruct, typename="trajectory_msgs.msg.dds_.JointTrajectory_"):
    """trajectory_msgs/JointTrajectory; a stamp of zero means "start on arrival"."""

    header: Header = field(default_factory=Header)
    joint_names: types.sequence[str] = field(default_factory=list)
    points: types.sequence[JointTrajectoryPoint] = field(default_factory=list)


@dataclass
@types.final
class Point(types.IdlStruct, typename="geometry_msgs.msg.dds_.Point_"):
    """A position, m."""

    x: types.float64 = 0.0
    y: types.float64 = 0.0
    z: types.float64 = 0.0


@dataclass
@types.final
class Vector3(types.IdlStruct, typename="geometry_msgs.msg.dds_.Vector3_"):
    """A displacement, m."""

    x: types.float64 = 0.0
    y: types.float64 = 0.0
    z: types.float64 = 0.0


@dataclass
@types.final
class Quaternion(types.IdlStruct, typename="geometry_msgs.msg.dds_.Quaternion_"):
    """A rotation; ROS puts the real part last."""

    x: types.float64 = 0.0
    y: types.float64 = 0.0
    z: types.float64 = 0.0
    w: types.float64 = 1.0


@dataclass
@types.final
class Pose(types.IdlStruct, typename="geometry_msgs.msg.dds_.Pose_"):
    """Position and orientation."""

    position: Point = field(default_factory=Point)
    orientation: Quaternion = field(default_factory=Quaternion)


@dataclass
@types.final
class PoseStamped(types.IdlStruct, typename="geometry_msgs.msg.dds_.PoseStamped_"):
    """geometry_msgs/PoseStamped."""

    header: Header = field(default_factory=Header)
    pose: Pose = field(default_factory=Pose)


@dataclass
@types.final
class Transform(types.IdlStruct, typename="geometry_msgs.msg.dds_.Transform_"):
    """Where a frame is."""

    translation: Vector3 = field(default_factory=Vector3)
    rotation: Quaternion = field(default_factory=Quaternion)


@dataclass
@types.final
class TransformStamped(types.IdlStruct, typename="geometry_msgs.msg.dds_.TransformStamped_"):
    """geometry_msgs/TransformStamped: the frame `child_frame_id` in the header's frame."""

    header: Header = field(default_factory=Header)
    child_frame_id: str = ""
    transform: Transform = field(default_factory=Transform)


@dataclass
@types.final
class Image(types.IdlStruct, typename="sensor_msgs.msg.dds_.Image_"):
    """sensor_msgs/Image: `data` holds `height` rows of `step` bytes.

    The pixels are copied whole; the generic serialiser would take milliseconds, byte by byte.
    """

    header: Header = field(default_factory=Header)
    height: types.uint32 = 0
    width: types.uint32 = 0
    encoding: str = "rgb8"
    is_bigendian: types.byte = 0
    step: types.uint32 = 0
    data: types.octets = b""

    def serialize(self, *args: Any, **kwargs: Any) -> bytes:
        """Wire bytes."""
        empty = replace(self, data=b"")
        head = super(Image, empty).serialize(*args, **kwargs)
        return b"".join((head[:-4], len(self.data).to_bytes(4, "little"), self.data))

    @classmethod
    def deserialize(cls, data: bytes, *args: Any, **kwargs: Any) -> Self:
        """A message from wire bytes, with `data` as bytes.

        Raises:
            ValueError: it is not a little-endian image of the length it says.
        """
        start = _pixels_start(data)
        count = int.from_bytes(data[start - 4 : start], "little")
        if data[:2] != b"\0\1" or start + count > len(data):
            raise ValueError(f"An image of {count} bytes does not fit {len(data)} bytes from {start}.")
        message: Self = super().deserialize(data[: start - 4] + bytes(4), *args, **kwargs)
        message.data = data[start : start + count]
        return message


def _pixels_start(data: bytes) -> int:
    """Where the pixels of an image on the wire begin: behind two strings, six numbers and a flag."""
    at = 12
    for numbers in (8, 1):
        length = int.from_bytes(data[at : at + 4], "little")
        at += 4 + length
        at += -at % 4 if numbers > 1 else 0
        at += numbers
    return at + -at % 4 + 8
