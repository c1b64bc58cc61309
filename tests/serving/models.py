"""What tests of serving serve: a model without a framework, and openpi's side of the wire."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgpack
import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from robopolicy.serving.announcement import FIELDS, Announcement
from robopolicy.serving.served import Chunks, Served
from robopolicy.spec import ActionSpec, ObservationSpec, Spec

SPEC = Spec(
    observations={
        "state": ObservationSpec(shape=(3,)),
        "picture": ObservationSpec(shape=(2, 2, 3), dtype="uint8", kind="image"),
        "instruction": ObservationSpec(shape=(), dtype="str", kind="text"),
    },
    action=ActionSpec(names=("x", "y"), low=(-1.0, -1.0), high=(1.0, 1.0)),
    control_hz=10,
)
TO, TP = 2, 5


class Sums(Served):
    """Actions are sums over the row's observation, plus its noise or a number from its seed."""

    def __init__(self, *, delay_s: float = 0.0, version: str = "one", max_chunks: int = 32) -> None:
        super().__init__(
            Announcement(
                version=version, accepts=FIELDS, noise_shape=(TP, 2), noise_is_all=True, spec=SPEC,
                obs_horizon=TO, pred_horizon=TP, action_horizon=3, max_chunks=max_chunks,
            )
        )  # fmt: skip
        self.delay_s = delay_s
        self.held: threading.Event | None = None
        """If there is one: what inference waits for."""
        self.batches: list[int] = []
        self.started = threading.Event()

    def sample(
        self, observation: dict[str, Any], n: int, noise: np.ndarray | None, seeds: Sequence[int | None]
    ) -> Chunks:
        self.started.set()
        self.batches.append(len(seeds) * n)
        time.sleep(self.delay_s)
        if self.held is not None:
            self.held.wait()
        if "crash" in observation["instruction"]:
            raise RuntimeError("the model crashed")
        if "shape" in observation["instruction"]:
            return Chunks({"actions": np.zeros(3)})
        value = observation["state"].sum((1, 2)) + observation["picture"].sum((1, 2, 3, 4))
        value = value + [len(text) for text in observation["instruction"]]
        if noise is None:
            noise = np.stack(
                [np.random.default_rng(seed).standard_normal((n, TP, 2)).astype(np.float32) for seed in seeds]
            )
        return Chunks({"actions": (value[:, None, None, None] + noise).astype(np.float32)})


def request(seed: int = 0, batch: int | None = None) -> dict[str, Any]:
    """An observation for `Sums`, or B of them."""
    rng = np.random.default_rng(seed)
    lead = () if batch is None else (batch,)
    return {
        "state": rng.normal(size=(*lead, TO, 3)).astype(np.float32),
        "picture": rng.integers(0, 255, (*lead, TO, 2, 2, 3), np.uint8),
        "instruction": "lift" if batch is None else ["lift" + "!" * i for i in range(batch)],
    }


def openpi_pack(value: Any) -> bytes:
    """As openpi's documentation of the format says, without our code."""

    def describe(found: Any) -> Any:
        if isinstance(found, np.ndarray):
            said = {b"data": found.tobytes(), b"dtype": found.dtype.str, b"shape": found.shape}
            return {b"__ndarray__": True, **said}
        return {b"__npgeneric__": True, b"data": found.item(), b"dtype": found.dtype.str}

    packed: bytes = msgpack.packb(value, default=describe)
    return packed


def openpi_unpack(message: bytes) -> Any:
    """As openpi's documentation of the format says, without our code."""

    def restore(found: dict[Any, Any]) -> Any:
        if b"__ndarray__" in found:
            return np.ndarray(found[b"shape"], np.dtype(found[b"dtype"]), found[b"data"])
        return np.dtype(found[b"dtype"]).type(found[b"data"]) if b"__npgeneric__" in found else found

    return msgpack.unpackb(message, object_hook=restore)


@contextlib.contextmanager
def openpi_server(
    infer: Callable[[dict[str, Any]], dict[str, Any]], metadata: dict[str, Any] | None = None, port: int = 0
) -> Iterator[str]:
    """A server as openpi's: metadata, then a reply to every observation; a traceback as text, and the end."""

    def talk(connection: ServerConnection) -> None:
        connection.send(openpi_pack(metadata or {}))
        with contextlib.suppress(ConnectionClosed):
            while True:
                message = connection.recv()
                assert isinstance(message, bytes)
                try:
                    connection.send(openpi_pack(infer(openpi_unpack(message))))
                except (KeyError, ValueError) as error:
                    connection.send(f"Traceback: {error!r}")
                    connection.close(1011)
                    return

    with serve(talk, "127.0.0.1", port, compression=None, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join()
