"""What a camera sees, in a browser: for whoever drives from a terminal, perhaps on another machine.

ssh -L 8008:127.0.0.1:8008 the-machine      # then http://127.0.0.1:8008
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

__all__ = ["View"]

_BOUNDARY = "picture"
_QUALITY = 80


class View:
    """Serves the newest picture as motion JPEG, on this machine only.

    Args:
        port: 0 takes a free one.
    """

    def __init__(self, port: int = 8008) -> None:
        self._news = threading.Condition()
        self._jpeg = b""
        self._count = 0
        self._closing = False
        view = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(HTTPStatus.OK)
                self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
                self.end_headers()
                try:
                    for jpeg in view.pictures():
                        self.wfile.write(f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\n".encode())
                        self.wfile.write(f"Content-Length: {len(jpeg)}\r\n\r\n".encode() + jpeg + b"\r\n")
                except ConnectionError:
                    return  # the browser has gone

            def log_message(self, *arguments: Any) -> None:
                """Nothing: the terminal is for driving."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def show(self, picture: np.ndarray) -> None:
        """Replace the picture by this one, uint8 `[H, W, 3]`."""
        encoded = io.BytesIO()
        Image.fromarray(picture).save(encoded, "JPEG", quality=_QUALITY)
        with self._news:
            self._jpeg, self._count = encoded.getvalue(), self._count + 1
            self._news.notify_all()

    def pictures(self) -> Iterator[bytes]:
        """Every picture from now on, as JPEG; whoever is slow misses some."""
        seen = 0
        while True:
            with self._news:
                while not self._closing and self._count == seen:
                    self._news.wait()
                if self._closing:
                    return
                jpeg, seen = self._jpeg, self._count
            yield jpeg

    def close(self) -> None:
        """Hang up."""
        with self._news:
            self._closing = True
            self._news.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
