"""A camera that OpenCV reads as a ROS 2 topic, from a process on the computer that it is plugged into.

    python -m hardware.camera --device 0 --topic /wrist/image_raw --size 84 --domain 0 --interface eth0

Publishes sensor_msgs/Image, stamped with the time at which the picture was taken, by the wall clock.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hardware.extras import require
from hardware.process import settings, ticks
from hardware.robot import RobotError
from hardware.robots.streams import dds_name
from hardware.transport.dds import SENSOR, Participant
from hardware.transport.idl_ros import Header, Image, Time
from hardware.transport.topics import Writer
from robopolicy.errors import ConfigError

__all__ = ["Camera", "CameraSettings", "OpenCVCamera", "main", "publish", "squared"]


class Camera(Protocol):
    """Where pictures come from."""

    name: str
    """Its frame."""

    def read(self) -> tuple[int, np.ndarray] | None:
        """When a picture was taken (wall clock, ns) and the picture, uint8 `[H, W, 3]`, red first; None if
        there is no new one."""
        ...


def publish(camera: Camera, images: Writer[Image]) -> None:
    """Send the newest picture, if there is a new one."""
    seen = camera.read()
    if seen is None:
        return
    taken_ns, picture = seen
    height, width, _ = picture.shape
    header = Header(Time.from_ns(taken_ns), camera.name)
    images.write(Image(header, height, width, "rgb8", 0, 3 * width, picture.tobytes()))


@dataclass(frozen=True, kw_only=True)
class CameraSettings:
    """What `python -m hardware.camera` can be told."""

    device: str = "0"
    """A number, a file such as /dev/video2, or the address of a stream."""
    topic: str = "/camera/image_raw"
    size: int = 84
    """Pictures are cut to the square in their middle and made so wide; 0 sends them as they are."""
    hz: float = 30.0
    latency: float = 0.0
    """Seconds from the light to when OpenCV has the picture: stamps are so much earlier."""

    def __post_init__(self) -> None:
        if self.size < 0 or self.hz <= 0 or not 0 <= self.latency < 1:
            raise ConfigError(
                f"A camera has size >= 0, hz > 0 and a latency in [0, 1) s; got {self.size}, {self.hz}, "
                f"{self.latency}."
            )


class OpenCVCamera:
    """Whatever `cv2.VideoCapture` opens.

    Raises:
        RobotError: it does not open.
    """

    def __init__(self, config: CameraSettings) -> None:
        cv2: Any = require("cv2", extra="camera", purpose="Reading a camera")
        self.config, self.name = config, config.topic.strip("/").split("/")[0]
        self._capture = cv2.VideoCapture(int(config.device) if config.device.isdigit() else config.device)
        if not self._capture.isOpened():
            raise RobotError(f"There is no camera {config.device}, or another program has it.")
        self._capture.set(cv2.CAP_PROP_FPS, config.hz)
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # what waits in a buffer is old

    def read(self) -> tuple[int, np.ndarray]:
        """Wait for the next picture.

        Raises:
            RobotError: the camera gives none any more.
        """
        grabbed = self._capture.grab()
        taken = time.time_ns() - round(1e9 * self.config.latency)
        found, picture = self._capture.retrieve() if grabbed else (False, None)
        if not found or picture is None:
            raise RobotError(f"Camera {self.config.device} gives no pictures any more.")
        if self.config.size:
            picture = squared(picture, self.config.size)
        return taken, np.ascontiguousarray(picture[..., ::-1])

    def close(self) -> None:
        """Let go of the device."""
        self._capture.release()


def squared(picture: np.ndarray, size: int) -> np.ndarray:
    """The square in the middle of `[H, W, 3]`, `[size, size, 3]`; areas are averaged when it shrinks."""
    import cv2

    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = picture[top : top + side, left : left + side]
    how = cv2.INTER_AREA if size < side else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(middle, (size, size), interpolation=how))


def main() -> None:
    """Publish pictures until told to end."""
    config, network = settings(CameraSettings, "A camera as a ROS 2 topic.")
    try:
        with Participant(network) as participant:
            images = participant.writer(dds_name(config.topic), Image, SENSOR)
            camera = OpenCVCamera(config)
            for _ in ticks(round(1e9 / config.hz), nice=0):
                publish(camera, images)
            camera.close()
    except RobotError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
