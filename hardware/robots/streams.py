"""Measurements that come on topics of their own, each with its own time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware.messages import Measured
from robopolicy.errors import DataError

if TYPE_CHECKING:
    from hardware.transport.topics import Participant

__all__ = ["Streams", "dds_name", "image_of", "pose_of"]


class Streams:
    """The newest message of every pose and image topic.

    Args:
        poses: name to topic of geometry_msgs/PoseStamped.
        images: name to topic of sensor_msgs/Image, encoded as rgb8 or bgr8.
    """

    def __init__(self, participant: Participant, poses: dict[str, str], images: dict[str, str]) -> None:
        from hardware.transport.dds import SENSOR
        from hardware.transport.idl_ros import Image, PoseStamped

        self._readers: dict[str, tuple[Any, Callable[[Any], np.ndarray]]] = {
            name: (participant.reader(dds_name(topic), PoseStamped, SENSOR), pose_of)
            for name, topic in poses.items()
        }
        self._readers |= {
            name: (participant.reader(dds_name(topic), Image, SENSOR), image_of)
            for name, topic in images.items()
        }
        self._newest: dict[str, Measured] = {}
        self.rejected = 0
        """Messages that were no pose or picture."""

    def read(self, convert: Callable[[int], int | None]) -> dict[str, Measured]:
        """The newest of each that has ever come; `convert` turns stamps into our time."""
        for name, (reader, value_of) in self._readers.items():
            message = reader.latest()
            t_ns = None if message is None else convert(message.header.stamp.ns)
            if message is None or t_ns is None:
                continue
            try:
                self._newest[name] = Measured(t_ns, value_of(message))
            except DataError:
                self.rejected += 1
        return dict(self._newest)


def dds_name(topic: str) -> str:
    """The DDS name of a ROS 2 topic: ``/joint_states`` is ``rt/joint_states``."""
    return "rt/" + topic.lstrip("/")


def pose_of(message: Any) -> np.ndarray:
    """`[7]`: position, then quaternion with the real part first, of a geometry_msgs/PoseStamped.

    Raises:
        DataError: numbers that are not finite, or no rotation.
    """
    p, r = message.pose.position, message.pose.orientation
    value = np.array([p.x, p.y, p.z, r.w, r.x, r.y, r.z])
    norm = float(np.linalg.norm(value[3:]))
    if not np.isfinite(value).all() or not 0.9 < norm < 1.1:
        raise DataError(f"Not a pose: {value.tolist()}.")
    value[3:] /= norm
    return value


def image_of(message: Any) -> np.ndarray:
    """uint8 `[H, W, 3]`, red first, of a sensor_msgs/Image.

    Raises:
        DataError: another encoding, or too few bytes.
    """
    rows, columns, step = message.height, message.width, message.step
    if message.encoding not in ("rgb8", "bgr8"):
        raise DataError(f"Images are rgb8 or bgr8, got {message.encoding!r}.")
    if step < 3 * columns or len(message.data) != rows * step:
        raise DataError(f"An image of {rows} rows of {step} bytes has {len(message.data)} bytes.")
    flat = np.frombuffer(message.data, np.uint8).reshape(rows, step)[:, : 3 * columns]
    image = flat.reshape(rows, columns, 3)
    return image if message.encoding == "rgb8" else image[..., ::-1].copy()
