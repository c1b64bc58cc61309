"""A policy server: openpi's protocol on an event loop that waits for clients, and one thread that infers.

Nothing that a client does or leaves undone holds up another: messages are limited in bytes and in values,
silent clients are let go, replies that nobody reads are given up, and inference never runs on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import http
import ipaddress
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from robopolicy.errors import ConfigError
from robopolicy.serving.announcement import KEY, TOKEN
from robopolicy.serving.served import Query, RequestError, Served
from robopolicy.serving.wire import MAX_BYTES, ProtocolError, pack, unpack

__all__ = [
    "CLOSE_S",
    "HEALTH",
    "OPEN_S",
    "PING_S",
    "SEND_S",
    "PolicyServer",
    "ServerConfig",
    "logger",
    "running",
    "serve_forever",
]

HEALTH = "/healthz"
OPEN_S = 10.0
"""In which a handshake has to be over."""
SEND_S = 10.0
"""In which a client has to take a reply."""
CLOSE_S = 2.0
"""In which a client has to say goodbye."""
PING_S = 60.0
"""After which a client that answers no ping is gone."""

logger = logging.getLogger(__name__)
_strangers = logging.getLogger(f"{__name__}.handshakes")  # what scanners send is no news
_strangers.setLevel(logging.CRITICAL)


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Where to listen, and what clients may do."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0 for any that is free."""
    max_clients: int = 64
    max_bytes: int = MAX_BYTES
    """Of a request."""
    idle_s: float = 600.0
    """A client that asks nothing for so long is let go; it may connect again."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536 or min(self.max_clients, self.max_bytes) < 1 or self.idle_s <= 0:
            raise ConfigError(
                f"A server needs a port in 0..65535, max_clients, max_bytes >= 1 and idle_s > 0; got {self}."
            )

    @property
    def is_local(self) -> bool:
        """Whether only this computer can connect."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@dataclass
class _Job:
    query: Query
    reply: asyncio.Future[dict[str, Any]]
    since: float


class PolicyServer:
    """Serves a model to many clients; requests that wait at the same time are answered as one batch.

    Raises:
        ConfigError: other computers could connect, and there is no token.
    """

    def __init__(self, served: Served, config: ServerConfig | None = None, *, token: str = "") -> None:
        self.served, self.config, self._token = served, config or ServerConfig(), token
        if not self.config.is_local and not token:
            raise ConfigError(
                f"host={self.config.host} lets other computers in: set a token in the environment variable "
                f"{TOKEN}, for the server and its clients, or listen on 127.0.0.1."
            )
        self._waiting: asyncio.Queue[_Job] = asyncio.Queue()
        self._pending: set[asyncio.Future[dict[str, Any]]] = set()
        self._clients: set[ServerConnection] = set()
        self._handshake = pack({KEY: served.announcement.to_dict()})

    async def run(self, ready: Callable[[str], None] = lambda address: None) -> None:
        """Serve until cancelled; `ready` is told the address."""
        config = self.config
        thread = ThreadPoolExecutor(1, "inference")
        async with serve(
            self._talk, config.host, config.port, compression=None, origins=[None],
            process_request=self._greet, max_size=config.max_bytes, max_queue=2, open_timeout=OPEN_S,
            close_timeout=CLOSE_S, ping_interval=PING_S / 2, ping_timeout=PING_S, logger=_strangers,
        ) as server:  # fmt: skip
            ready(_address(server))
            try:
                await self._infer(thread)
            finally:
                for reply in self._pending:
                    reply.cancel()
                thread.shutdown(wait=False, cancel_futures=True)

    def _greet(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.path == HEALTH:
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        wanted, given = f"Api-Key {self._token}", request.headers.get("Authorization", "")
        if self._token and not hmac.compare_digest(wanted.encode(), given.encode()):
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, f"A token is needed ({TOKEN}).\n")
        return None

    async def _talk(self, connection: ServerConnection) -> None:
        if len(self._clients) >= self.config.max_clients:
            await connection.close(1013, f"{self.config.max_clients} clients are connected, which is all")
            return
        self._clients.add(connection)
        try:
            await self._send(connection, self._handshake)
            before: float | None = None
            while True:
                async with asyncio.timeout(self.config.idle_s):
                    message = await connection.recv()
                since = time.perf_counter()
                await self._send(connection, await self._reply(message, before))
                before = 1e3 * (time.perf_counter() - since)
        except ConnectionClosed:
            pass
        except ProtocolError as error:
            with contextlib.suppress(ConnectionClosed, TimeoutError):
                await self._send(connection, str(error))
            await connection.close(1007, "not a request")
        except TimeoutError:
            await connection.close(1001, f"silent, or not listening, for {self.config.idle_s:g} s")
        finally:
            self._clients.discard(connection)

    async def _send(self, connection: ServerConnection, message: bytes | str) -> None:
        async with asyncio.timeout(SEND_S):
            await connection.send(message)

    async def _reply(self, message: bytes | str, before: float | None) -> bytes | str:
        """A reply in bytes; or a text, as openpi does it, that says why there is none.

        Raises:
            ProtocolError: not a message at all.
        """
        if isinstance(message, str):
            raise ProtocolError("Requests are binary messages of msgpack, got a text.")
        request = unpack(message)
        waiting: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._pending.add(waiting)
        try:
            self._waiting.put_nowait(_Job(self.served.read(request), waiting, time.perf_counter()))
            reply = await waiting
            if before is not None:
                reply["server_timing"]["prev_total_ms"] = before
            return pack(reply)
        except RequestError as error:
            return str(error)
        except Exception as error:
            logger.exception("A request failed.")
            return f"{type(error).__name__}: {error}"
        finally:
            self._pending.discard(waiting)

    async def _infer(self, thread: ThreadPoolExecutor) -> None:
        """What waits, as far as it fits, goes through the model together."""
        loop, held = asyncio.get_running_loop(), None
        while True:
            jobs = [held or await self._waiting.get()]
            held, chunks = None, jobs[0].query.chunks
            while not self._waiting.empty():
                job = self._waiting.get_nowait()
                chunks += job.query.chunks
                if chunks > self.served.limit:
                    held = job
                    break
                jobs.append(job)
            replies, begun, took = await loop.run_in_executor(thread, self._answer, jobs)
            for job, reply in zip(jobs, replies, strict=True):
                if job.reply.done():
                    continue
                if isinstance(reply, Exception):
                    job.reply.set_exception(reply)
                    continue
                timing = {"infer_ms": 1e3 * took, "wait_ms": 1e3 * (begun - job.since), "requests": len(jobs)}
                job.reply.set_result({**reply, "server_timing": timing})

    def _answer(self, jobs: Sequence[_Job]) -> tuple[list[dict[str, Any] | Exception], float, float]:
        """Replies, when inference began, and how long it took; in the inference thread."""
        begun = time.perf_counter()
        replies = self.served.answer([job.query for job in jobs])
        return replies, begun, time.perf_counter() - begun


def serve_forever(served: Served, config: ServerConfig, *, name: str) -> None:
    """Serve until interrupted, and say where."""
    server = PolicyServer(served, config, token=os.environ.get(TOKEN, ""))
    said = served.announcement

    def ready(address: str) -> None:
        print(
            f"{name}, version {said.version}: {address} takes {', '.join(said.accepts)}. Ctrl-C stops it.",
            flush=True,
        )

    asyncio.run(server.run(ready))


@contextlib.contextmanager
def running(served: Served, config: ServerConfig | None = None, *, token: str = "") -> Iterator[str]:
    """A server in a thread of its own while the block runs; gives its address."""
    server = PolicyServer(served, config or ServerConfig(port=0), token=token)
    loop, found = asyncio.new_event_loop(), threading.Event()
    addresses: list[str] = []
    failures: list[BaseException] = []

    def ready(address: str) -> None:
        addresses.append(address)
        found.set()

    def work() -> None:
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        except OSError as error:
            failures.append(error)
        finally:
            found.set()

    task = loop.create_task(server.run(ready))
    thread = threading.Thread(target=work, name="policy server", daemon=True)
    thread.start()
    found.wait()
    try:
        if failures:
            raise failures[0]
        yield addresses[0]
    finally:
        if thread.is_alive():
            loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()


def _address(server: Server) -> str:
    host, port = next(iter(server.sockets)).getsockname()[:2]
    return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"
