"""Our ROS 2 messages are byte for byte those of ROS 2."""

from __future__ import annotations

import dataclasses
import struct
from typing import Any

import numpy as np
import pytest
import rosbags.typesys as rosbags

pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")

from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.transport import idl_ros as ros

HUMBLE = rosbags.get_typestore(rosbags.Stores.ROS2_HUMBLE)

# CDR strings end at their first NUL, and ROS 2 text is UTF-8, which has no surrogates.
text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
number = st.floats(width=64)
numbers = st.lists(number, max_size=9)
times = st.builds(ros.Time, st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**32 - 1))
durations = st.builds(ros.Duration, st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**32 - 1))
headers = st.builds(ros.Header, times, text)
points = st.builds(ros.JointTrajectoryPoint, numbers, numbers, numbers, numbers, durations)
xyz = {"x": number, "y": number, "z": number}
quaternions = st.builds(ros.Quaternion, **xyz, w=number)
messages = st.one_of(
    st.builds(ros.Bool, st.booleans()),
    st.builds(ros.Int64, st.integers(-(2**63), 2**63 - 1)),
    st.builds(ros.JointState, headers, st.lists(text, max_size=9), numbers, numbers, numbers),
    st.builds(ros.JointTrajectory, headers, st.lists(text, max_size=9), st.lists(points, max_size=4)),
    st.builds(ros.PoseStamped, headers, st.builds(ros.Pose, st.builds(ros.Point, **xyz), quaternions)),
    st.builds(
        ros.TransformStamped,
        headers,
        text,
        st.builds(ros.Transform, st.builds(ros.Vector3, **xyz), quaternions),
    ),
    st.builds(
        ros.Image,
        headers,
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
        text,
        st.integers(0, 1),
        st.integers(0, 2**32 - 1),
        st.binary(max_size=40),
    ),
)


def reference(message: Any) -> Any:
    """The same message as rosbags' class."""
    package, _, _, name = type(message).__idl__.idl_transformed_typename.split("::")
    values = {}
    for item in dataclasses.fields(message):
        value = getattr(message, item.name)
        if dataclasses.is_dataclass(value):
            value = reference(value)
        elif isinstance(value, bytes):
            value = np.frombuffer(value, np.uint8)
        elif isinstance(value, list):
            value = _sequence(item.name, value)
        values[item.name] = value
    return HUMBLE.types[f"{package}/msg/{name.rstrip('_')}"](**values)


def _sequence(name: str, value: list[Any]) -> Any:
    if name == "points":
        return [reference(point) for point in value]
    if name in ("name", "joint_names"):
        return value
    return np.array(value, np.float64)


@settings(max_examples=300, deadline=None)
@given(messages)
def test_bytes_equal_rosbags(message: Any) -> None:
    expected = reference(message)
    data = bytes(HUMBLE.serialize_cdr(expected, expected.__msgtype__))
    ours = message.serialize()
    # Cyclone and rosbags may differ in the zeros after the last field, which no reader looks at.
    assert ours.ljust(len(data), b"\0") == data.ljust(len(ours), b"\0")
    assert type(message).deserialize(data).serialize() == ours


def test_an_image_that_ends_early_is_refused() -> None:
    whole = ros.Image(height=2, width=2, step=6, data=bytes(range(12))).serialize()
    assert ros.Image.deserialize(whole).data == bytes(range(12))
    for cut in range(4, len(whole)):
        with pytest.raises((ValueError, struct.error, IndexError)):
            ros.Image.deserialize(whole[:cut])
    with pytest.raises(ValueError, match="does not fit"):
        ros.Image.deserialize(b"\0\0" + whole[2:])


def test_times_count_nanoseconds() -> None:
    for ns in (0, 1, 1_999_999_999, -1):
        assert ros.Time.from_ns(ns).ns == ns
        assert ros.Duration.from_ns(ns).ns == ns
    assert ros.Time.from_ns(2_000_000_003) == ros.Time(2, 3)
