"""A client of any openpi server, for the robot's computer: needs NumPy, msgpack and websockets, and no torch.

with PolicyClient("ws://gpu:8000") as client:
    reply = client.infer({"state": history})            # as openpi's client: history [To, ...]
    chunks = client.sample({"state": histories}, n=16)   # actions [B, 16, Tp, Da]
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.sync.client import ClientConnection, connect

from robopolicy.errors import ConfigError, MissingCapability, RobopolicyError
from robopolicy.serving.announcement import KEY, TOKEN, Announcement
from robopolicy.serving.wire import ProtocolError, pack, unpack

__all__ = [
    "ANNOUNCE",
    "FIRST_DELAY_S",
    "MAX_DELAY_S",
    "OPEN_S",
    "TOO_BIG",
    "PolicyClient",
    "Reply",
    "ServerError",
    "VersionChanged",
]

TOO_BIG = 1009
"""The closing code of a request that is too long: the same again would be closed again."""
OPEN_S = 10.0
"""For connecting, and for the handshake."""
FIRST_DELAY_S, MAX_DELAY_S = 0.05, 2.0
ANNOUNCE = 'add {{"{key}": {{"protocol": 1, "accepts": [{name!r}], ...}}}} to its metadata (docs/serving.md)'


class ServerError(RobopolicyError, RuntimeError):
    """A server that is not there, went away, or could not answer."""


class VersionChanged(ServerError):
    """The server has other weights than it had when the client first connected."""


@dataclass(frozen=True)
class Reply:
    """n chunks for each of B observations."""

    actions: np.ndarray
    """`[B, n, Tp, Da]`."""
    arrays: Mapping[str, np.ndarray]
    """What else the server makes, each `[B, n, ...]`: latent, log_prob, energy."""
    requests: int
    """That it took."""
    calls: int
    """Network evaluations behind each chunk, as far as the server tells."""
    timing: Mapping[str, float] = field(default_factory=dict)
    """Seconds: of all, and of the server's inference."""


class PolicyClient:
    """One connection, made again whenever it is lost; requests are stateless, so asking again is safe.

    Args:
        token: by default that in the environment variable ROBOPOLICY_TOKEN.
        timeout_s: longest wait for a reply; a first call may have to compile.
        patience_s: how long to try to reach a server that is not there.

    Raises:
        ServerError: no server, or one that refuses.
        ProtocolError: a server of something else.
    """

    def __init__(
        self, address: str, *, token: str | None = None, timeout_s: float = 60.0, patience_s: float = 10.0
    ) -> None:
        self.address, self.timeout_s, self.patience_s = address, timeout_s, patience_s
        self.token = os.environ.get(TOKEN, "") if token is None else token
        self.requests = 0
        """Answered so far."""
        self.metadata: dict[str, Any] = {}
        self.announcement: Announcement | None = None
        self._stack, self._connection = contextlib.ExitStack(), None
        self.said()

    _connection: ClientConnection | None

    def said(self) -> Announcement:
        """What the server announced; connects if that has not happened."""
        if self.announcement is None:
            self._exchange(None)
        assert self.announcement is not None
        return self.announcement

    def infer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A request as it is, answered: what openpi's client does.

        Raises:
            ServerError: the server says why it cannot, does not answer in time, or cannot be reached again.
            VersionChanged: it has other weights by now.
        """
        message = self._exchange(pack(dict(request)))
        assert message is not None
        if isinstance(message, str):
            raise ServerError(f"{self.address}: {message}")
        reply = unpack(message)
        if not isinstance(reply, dict):
            raise ProtocolError(f"{self.address} replied with {type(reply).__name__}, not a map.")
        version = reply.get(KEY, {}).get("version")
        if version is not None:
            self._same(version)
        self.requests += 1
        return reply

    def sample(
        self,
        observation: Mapping[str, Any],
        *,
        n: int = 1,
        noise: np.ndarray | None = None,
        seeds: Sequence[int] | None = None,
    ) -> Reply:
        """Chunks for B observations `[B, To, ...]` (or B texts), in as few requests as the server allows.

        A server that takes no "batch" is asked about each observation, without the time axis where To is 1,
        and one that takes no "n" for every chunk.

        Args:
            noise: `[B, n, Tp, Dz]`.
            seeds: one for each observation.

        Raises:
            MissingCapability: noise or seeds that the server does not accept.
        """
        said, begun = self.said(), time.perf_counter()
        for name, value in (("noise", noise), ("seed", seeds)):
            if value is not None:
                self.require(name)
        rows = len(next(iter(observation.values())))
        parts, infer_s, calls, requests = [], 0.0, 1, 0
        for where, request in self._requests(observation, n, noise, seeds):
            reply = self.infer(request)
            requests += 1
            calls = int(reply.get(KEY, {}).get("calls", calls))
            infer_s += 1e-3 * float(reply.get("server_timing", {}).get("infer_ms", 0.0))
            axes = (() if "batch" in said.accepts else (0,)) + (() if "n" in said.accepts else (1,))
            found = {
                key: np.expand_dims(value, axes)
                for key, value in reply.items()
                if key in ("actions", "latent", "log_prob", "energy") and isinstance(value, np.ndarray)
            }
            if "actions" not in found or found["actions"].ndim != 4:
                raise ProtocolError(
                    f"{self.address} replied without actions of the shape that was asked for: "
                    f"{ {key: list(np.shape(value)) for key, value in reply.items()} }."
                )
            parts.append((where, found))
        arrays = {}
        for key in parts[0][1]:
            shape = parts[0][1][key].shape[2:]
            arrays[key] = np.empty((rows, n, *shape), np.float32)
            for where, found in parts:
                if found[key].shape[2:] != shape:
                    raise ProtocolError(f"{self.address} replies with {key} of different shapes.")
                arrays[key][where] = found[key]
        timing = {"sample": time.perf_counter() - begun, "server": infer_s}
        return Reply(arrays.pop("actions"), arrays, requests, calls, timing)

    def require(self, name: str) -> None:
        """Raise unless the server accepts this field.

        Raises:
            MissingCapability: says what the server has to announce.
        """
        accepts = self.said().accepts
        if name not in accepts:
            raise MissingCapability(
                f"{self.address} does not accept {name!r} (it accepts: "
                f"{', '.join(accepts) or 'observations'}). An openpi server that can, says so: "
                f"{ANNOUNCE.format(key=KEY, name=name)}."
            )

    def close(self) -> None:
        """Hang up."""
        self._connection = None
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Copies connect for themselves."""
        return {**self.__dict__, "_stack": None, "_connection": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._stack = contextlib.ExitStack()

    def _requests(
        self, observation: Mapping[str, Any], n: int, noise: np.ndarray | None, seeds: Sequence[int] | None
    ) -> Iterator[tuple[tuple[slice, slice], dict[str, Any]]]:
        """Each request, and the rows and chunks that it is about."""
        said = self.said()
        rows, each = len(next(iter(observation.values()))), n if "n" in said.accepts else 1
        most = 1
        if "batch" in said.accepts:
            row_bytes = sum(np.asarray(value[:1]).nbytes for value in observation.values())
            most = rows if said.max_chunks is None else max(1, said.max_chunks // n)
            if said.max_bytes is not None:
                most = max(1, min(most, int(0.9 * said.max_bytes) // max(1, row_bytes)))
        for start in range(0, rows, most):
            for chunk in range(0, n, each):
                where = slice(start, min(start + most, rows)), slice(chunk, chunk + each)
                options: dict[str, Any] = {"n": n} if "n" in said.accepts else {}
                if noise is not None:
                    options["noise"] = np.ascontiguousarray(noise[where], np.float32)
                if seeds is not None:
                    options["seed"] = [int(seed) + chunk for seed in seeds[where[0]]]
                request = {key: value[where[0]] for key, value in observation.items()}
                if "batch" not in said.accepts:
                    request = {key: self._one(value[0], said) for key, value in request.items()}
                    if noise is not None:
                        options["noise"] = options["noise"][0]
                    if seeds is not None:
                        options["seed"] = options["seed"][0]
                if noise is not None and "n" not in said.accepts:
                    options["noise"] = options["noise"].squeeze(-3)
                yield where, {**request, KEY: options} if said.accepts else request

    def _one(self, value: Any, said: Announcement) -> Any:
        if isinstance(value, str) or said.spec is not None:
            return value
        if len(value) != 1:
            raise ConfigError(
                f"{self.address} takes the present observation alone, got a history of {len(value)}."
            )
        return value[0]

    def _exchange(self, message: bytes | None) -> bytes | str | None:
        """Send, and return what comes back; with None, only be connected."""
        lost: Exception | None = None
        deadline, delay, attempts = time.monotonic() + self.patience_s, FIRST_DELAY_S, 0
        while True:
            try:
                attempts += 1
                connection = self._connection or self._open()
                if message is None:
                    return None
                return self._ask(connection, message)
            except ConnectionClosed as error:
                if error.rcvd is not None and error.rcvd.code == TOO_BIG:
                    raise ServerError(f"{self.address} hung up: {error.rcvd.reason}.") from error
                lost = error
            except InvalidStatus as error:
                refused = error.response.body.decode(errors="replace").strip() if error.response.body else ""
                raise ServerError(f"{self.address} refuses: {error}. {refused}") from error
            except (InvalidHandshake, InvalidURI) as error:
                raise ServerError(f"{self.address} is not a policy server: {error}.") from error
            except OSError as error:
                lost = error
            if time.monotonic() + delay > deadline:
                raise ServerError(
                    f"No policy server at {self.address}: {lost} "
                    f"({attempts} attempts in {self.patience_s:g} s)."
                ) from lost
            time.sleep(delay)
            delay = min(2 * delay, MAX_DELAY_S)

    def _ask(self, connection: ClientConnection, message: bytes) -> bytes | str:
        try:
            connection.send(message)
            return connection.recv(timeout=self.timeout_s)
        except TimeoutError as error:
            self.close()
            raise ServerError(f"{self.address} has not answered within {self.timeout_s:g} s.") from error
        except BaseException:  # interrupted: what comes later is not the reply to the next request
            self.close()
            raise

    def _open(self) -> ClientConnection:
        headers = {"Authorization": f"Api-Key {self.token}"} if self.token else None
        wait = min(OPEN_S, max(1.0, self.patience_s))
        try:
            opened = connect(
                self.address, compression=None, max_size=None, additional_headers=headers, proxy=None,
                ping_interval=None, open_timeout=wait, close_timeout=1.0,
            )  # fmt: skip
            connection: ClientConnection = self._stack.enter_context(opened)
            first = connection.recv(timeout=wait)
            if isinstance(first, str):
                raise ServerError(f"{self.address}: {first}")
            metadata = unpack(first)
            said = Announcement.from_metadata(metadata)
            if self.announcement is not None:
                self._same(said.version)
        except BaseException:
            self.close()
            raise
        self.metadata, self.announcement, self._connection = metadata, said, connection
        return connection

    def _same(self, version: str) -> None:
        assert self.announcement is not None
        if version != self.announcement.version:
            self.close()
            raise VersionChanged(
                f"{self.address} has other weights now: version {version or '(none)'}, before "
                f"{self.announcement.version or '(none)'}. Connect anew to go on with them."
            )
