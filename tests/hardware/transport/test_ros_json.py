"""Our JSON is that of rosbridge_suite, and nothing is lost on the way there and back."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")

from hypothesis import given, settings

from hardware.transport import idl_ros as ros
from hardware.transport.ros_json import from_json, to_json
from hardware.transport.topics import MALFORMED, ros_type
from tests.hardware.transport.test_idl_ros import messages


def test_a_joint_state_looks_as_rosbridge_has_it() -> None:
    message = ros.JointState(
        ros.Header(ros.Time(12, 34), "base"), ["a", "b"], [1.0, math.nan], [math.inf, -math.inf], []
    )
    assert to_json(message) == {
        "header": {"stamp": {"sec": 12, "nanosec": 34}, "frame_id": "base"},
        "name": ["a", "b"],
        "position": [1.0, None],
        "velocity": [None, None],
        "effort": [],
    }
    assert ros_type(ros.JointState) == "sensor_msgs/msg/JointState"
    assert ros_type(ros.Time) == "builtin_interfaces/msg/Time"


def test_octets_are_base64_or_a_list() -> None:
    image = ros.Image(height=1, width=1, step=3, data=b"\x00\xff\x10")
    encoded = to_json(image)
    assert encoded["data"] == "AP8Q"
    assert from_json(ros.Image, encoded) == image
    assert from_json(ros.Image, {**encoded, "data": [0, 255, 16]}) == image


@settings(max_examples=200, deadline=None)
@given(messages)
def test_there_and_back_is_the_same(message: Any) -> None:
    encoded = to_json(message)
    text = json.dumps(encoded, allow_nan=False)
    back = from_json(type(message), json.loads(text))
    assert to_json(back) == encoded
    if "null" not in text:
        assert back.serialize() == message.serialize()


def test_whole_numbers_are_numbers_and_null_is_nan() -> None:
    state = from_json(ros.JointState, {**to_json(ros.JointState()), "position": [1, None]})
    assert state.position[0] == 1.0
    assert type(state.position[0]) is float
    assert math.isnan(state.position[1])


def test_only_clients_may_leave_fields_out() -> None:
    header = {"stamp": {"sec": 1}}
    state = from_json(ros.JointState, {"header": header, "name": ["a"]}, partial=True)
    assert state == ros.JointState(ros.Header(ros.Time(1, 0)), ["a"])
    assert from_json(ros.Pose, {}, partial=True).orientation.w == 1.0
    with pytest.raises(ValueError, match=r"Bool came without \['data'\]"):
        from_json(ros.Bool, {})
    with pytest.raises(ValueError, match="Time came without"):
        from_json(ros.Header, {**header, "frame_id": ""})


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (ros.JointState, None),
        (ros.JointState, []),
        (ros.JointState, {"names": ["a"]}),
        (ros.JointState, {"name": "a"}),
        (ros.JointState, {"name": [1]}),
        (ros.JointState, {"position": ["1"]}),
        (ros.JointState, {"position": [True]}),
        (ros.JointState, {"position": [10**400]}),
        (ros.JointState, {"header": {"stamp": {"secs": 1, "nsecs": 2}}}),
        (ros.JointState, {"header": {"stamp": 1.5}}),
        (ros.Time, {"sec": 2**31}),
        (ros.Time, {"nanosec": -1}),
        (ros.Time, {"sec": 1.0}),
        (ros.Bool, {"data": 1}),
        (ros.Image, {"data": "%%%%"}),
        (ros.Image, {"data": "AP8"}),
        (ros.Image, {"data": [256]}),
        (ros.Image, {"data": 5}),
    ],
)
def test_what_is_no_such_message_is_refused(kind: type, value: Any) -> None:
    with pytest.raises(MALFORMED):
        from_json(kind, value, partial=True)
