from __future__ import annotations

import io
import threading
import time
import urllib.request

import numpy as np
from PIL import Image

from hardware.teleop.view import View


def read_picture(stream: object) -> np.ndarray:
    lines = [stream.readline() for _ in range(4)]  # type: ignore[attr-defined]
    assert lines[0] == b"--picture\r\n"
    size = int(lines[2].split(b":")[1])
    jpeg = stream.read(size + 2)  # type: ignore[attr-defined]
    return np.asarray(Image.open(io.BytesIO(jpeg[:-2])))


def test_a_browser_sees_the_newest_picture() -> None:
    with View(port=0) as view:
        assert view.url.startswith("http://127.0.0.1:")
        view.show(np.full((8, 12, 3), 200, np.uint8))
        with urllib.request.urlopen(view.url, timeout=5) as stream:
            assert stream.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=picture"
            first = read_picture(stream)
            assert first.shape == (8, 12, 3)
            np.testing.assert_allclose(first, 200, atol=3)
            view.show(np.full((8, 12, 3), 30, np.uint8))
            np.testing.assert_allclose(read_picture(stream), 30, atol=3)


def test_closing_lets_everybody_go() -> None:
    view = View(port=0)
    ended = threading.Event()

    def watch() -> None:
        for _ in view.pictures():
            pass
        ended.set()

    thread = threading.Thread(target=watch)
    thread.start()
    view.show(np.zeros((4, 4, 3), np.uint8))
    time.sleep(0.01)
    view.close()
    assert ended.wait(5)
    thread.join()
