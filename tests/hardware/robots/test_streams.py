"""Poses and pictures from topics of their own."""

from __future__ import annotations

import time

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")

from hardware.robots.streams import Streams, dds_name, image_of, pose_of
from hardware.transport.dds import SENSOR, Participant
from hardware.transport.idl_ros import Header, Image, Point, Pose, PoseStamped, Quaternion, Time
from robopolicy.errors import DataError
from tests.hardware.wire import free_network


def picture(rng: np.random.Generator, encoding: str = "rgb8", padding: int = 0) -> tuple[np.ndarray, Image]:
    pixels = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    sent = pixels if encoding == "rgb8" else pixels[..., ::-1]
    rows = np.concatenate([sent.reshape(4, 15), np.zeros((4, padding), np.uint8)], axis=1)
    message = Image(height=4, width=5, encoding=encoding, step=15 + padding, data=rows.tobytes())
    return pixels, message


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
@pytest.mark.parametrize("padding", [0, 3])
def test_pictures_come_out_as_they_went_in(encoding: str, padding: int) -> None:
    pixels, message = picture(np.random.default_rng(0), encoding, padding)
    np.testing.assert_array_equal(image_of(Image.deserialize(message.serialize())), pixels)


def test_what_is_no_picture_or_pose_is_refused() -> None:
    _, message = picture(np.random.default_rng(0))
    message.encoding = "mono8"
    with pytest.raises(DataError, match="rgb8 or bgr8, got 'mono8'"):
        image_of(message)
    _, message = picture(np.random.default_rng(0))
    message.height = 5
    with pytest.raises(DataError, match="5 rows of 15 bytes has 60"):
        image_of(message)
    for orientation in (Quaternion(0.0, 0.0, 0.0, 0.0), Quaternion(0.0, 0.0, float("nan"), 1.0)):
        with pytest.raises(DataError, match="Not a pose"):
            pose_of(PoseStamped(Header(), Pose(Point(), orientation)))
    value = pose_of(PoseStamped(Header(), Pose(Point(1.0, 2.0, 3.0), Quaternion(0.0, 0.0, 0.6, 0.8))))
    np.testing.assert_allclose(value, [1, 2, 3, 0.8, 0, 0, 0.6])
    assert dds_name("/a/b") == dds_name("a/b") == "rt/a/b"


def test_the_newest_of_each_is_kept_with_its_time() -> None:
    pixels, message = picture(np.random.default_rng(1))
    with Participant(free_network()) as participant:
        streams = Streams(participant, {"object": "/pose"}, {"wrist": "/image"})
        poses = participant.writer("rt/pose", PoseStamped, SENSOR)
        images = participant.writer("rt/image", Image, SENSOR)
        poses.wait_matched(5.0)
        images.wait_matched(5.0)
        assert streams.read(lambda stamp: stamp) == {}
        message.header = Header(Time.from_ns(7))
        poses.write(PoseStamped(Header(Time.from_ns(5)), Pose(Point(1.0, 0.0, 0.0), Quaternion())))
        images.write(message)
        deadline = time.monotonic() + 5.0
        while len(seen := streams.read(lambda stamp: stamp + 100)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert seen["object"].t_ns == 105
        assert seen["wrist"].t_ns == 107
        np.testing.assert_array_equal(seen["wrist"].value, pixels)
        message.encoding = "mono8"
        images.write(message)
        while streams.rejected == 0:
            assert time.monotonic() < deadline
            seen = streams.read(lambda stamp: stamp)
        np.testing.assert_array_equal(seen["wrist"].value, pixels)  # the last good one
