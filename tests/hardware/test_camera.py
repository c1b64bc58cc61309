"""A camera that OpenCV reads: films stand in for devices, which `cv2.VideoCapture` opens alike."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")
pytest.importorskip("cv2", reason="OpenCV is the extra robopolicy[camera]")

import cv2

from hardware.camera import CameraSettings, OpenCVCamera, squared
from hardware.process import Simulated
from hardware.robot import RobotError
from hardware.robots.streams import Streams
from hardware.transport.dds import Participant
from robopolicy.errors import ConfigError
from tests.hardware.wire import eventually, free_network

RED = np.array([220, 30, 10])


def film(path: Path, pictures: int) -> str:
    """Red pictures, wider than high, with a blue bar at the left edge."""
    picture = np.broadcast_to(RED, (48, 80, 3)).astype(np.uint8)
    picture[:, :8] = (0, 0, 250)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 50, (80, 48))  # type: ignore[attr-defined]
    for _ in range(pictures):
        writer.write(np.ascontiguousarray(picture[..., ::-1]))
    writer.release()
    return str(path)


def test_pictures_are_red_first_square_and_stamped(tmp_path: Path) -> None:
    camera = OpenCVCamera(CameraSettings(device=film(tmp_path / "a.avi", 2), size=24, latency=0.05))
    before = time.time_ns()
    taken, picture = camera.read()
    assert before - 60_000_000 < taken < time.time_ns() - 50_000_000 + 1
    assert picture.shape == (24, 24, 3)
    assert picture.dtype == np.uint8
    # The bar was outside the square in the middle.
    np.testing.assert_allclose(picture.reshape(-1, 3).mean(0), RED, atol=6)
    camera.read()
    with pytest.raises(RobotError, match=r"a\.avi gives no pictures any more"):
        camera.read()
    camera.close()


def test_whole_pictures_keep_their_shape(tmp_path: Path) -> None:
    camera = OpenCVCamera(CameraSettings(device=film(tmp_path / "a.avi", 1), size=0))
    picture = camera.read()[1]
    assert picture.shape == (48, 80, 3)
    assert picture[24, 3, 2] > 200 > picture[24, 3, 0]
    camera.close()


def test_the_square_is_averaged_when_it_shrinks() -> None:
    chequered = np.indices((8, 12)).sum(0)[..., None].repeat(3, 2) % 2 * np.uint8(200)
    np.testing.assert_array_equal(squared(chequered.astype(np.uint8), 4), np.full((4, 4, 3), 100))


def test_what_cannot_work_is_said(tmp_path: Path) -> None:
    with pytest.raises(RobotError, match=r"no camera .*nothing\.avi, or another program has it"):
        OpenCVCamera(CameraSettings(device=str(tmp_path / "nothing.avi")))
    with pytest.raises(ConfigError, match=r"latency in \[0, 1\) s; got 84, 30.0, 2.0"):
        CameraSettings(latency=2.0)


def test_its_pictures_reach_a_robots_streams(tmp_path: Path) -> None:
    network = free_network()
    told = ("--topic=/wrist/image_raw", "--size=24", "--hz=50", f"--domain={network.domain}")
    with Participant(network) as participant:
        streams = Streams(participant, {}, {"wrist": "/wrist/image_raw"})
        with Simulated("hardware.camera", f"--device={film(tmp_path / 'a.avi', 1000)}", *told):
            eventually(lambda: "wrist" in streams.read(lambda stamp: stamp))
        seen = streams.read(lambda stamp: stamp)["wrist"]
    np.testing.assert_allclose(seen.value.reshape(-1, 3).mean(0), RED, atol=6)
    assert abs(seen.t_ns - time.time_ns()) < 60e9
