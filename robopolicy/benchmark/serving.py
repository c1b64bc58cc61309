"""A policy asked through a server on this machine, beside the same policy called in this process."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from websockets.asyncio.client import connect

from robopolicy.benchmark.learning import prepared
from robopolicy.benchmark.timing import summary
from robopolicy.learning.checkpoint import load, save_checkpoint
from robopolicy.policies.policy import Policy, blank_observation
from robopolicy.serving.announcement import KEY
from robopolicy.serving.client import PolicyClient
from robopolicy.serving.policy import ServedPolicy
from robopolicy.serving.server import PolicyServer, ServerConfig
from robopolicy.serving.wire import pack, unpack

__all__ = ["CLIENTS", "HERE", "POLICIES", "Timed", "serving"]

POLICIES = ("gaussian", "diffusion")
CLIENTS = (1, 8, 32)
HERE = 0
"""Clients of the calls in this process."""

Timed = Callable[[float], tuple[list[float], float]]
"""From seconds to spend to the seconds of every call, and calls a second."""


def serving(data: Path, directory: Path, *, device: str, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Latency and throughput, in turns; every request is one observation and one chunk.

    A single client is `PolicyClient`. Several are one event loop, so that they take little from the server,
    and each always waits for a chunk.
    """
    rows = []
    for name in POLICIES:
        save_checkpoint(directory / f"{name}-served", prepared(name, data, directory, device))
        policy = load(directory / f"{name}-served")
        with _server(directory / f"{name}-served", torch.get_num_threads()) as address:
            ways: dict[int, Timed] = {HERE: _here(policy)}
            outside: list[float] = []
            seen = {key: value[0] for key, value in blank_observation(policy).items()}
            with PolicyClient(address) as client:
                ways[1] = _one(client, seen, outside)
                for clients in CLIENTS[1:]:
                    ways[clients] = _several(address, pack({**seen, KEY: {}}), clients)
                rows += _measure(name, ways, seconds=seconds, rounds=rounds)
            rows[1 - len(ways)]["outside_ms"] = summary([outside])
    return rows


def _measure(name: str, ways: dict[int, Timed], *, seconds: float, rounds: int) -> list[dict[str, Any]]:
    for way in ways.values():
        way(0.0)
    times: dict[int, list[list[float]]] = {clients: [] for clients in ways}
    rates: dict[int, list[float]] = {clients: [] for clients in ways}
    for _ in range(rounds):
        for clients, way in ways.items():
            found, rate = way(seconds / rounds)
            times[clients].append(found)
            rates[clients].append(rate)
    rows: list[dict[str, Any]] = []
    for clients in ways:
        ms, rate = summary(times[clients]), float(np.median(rates[clients]))
        rows.append({"policy": name, "clients": clients, "ms": ms, "chunks_per_s": float(f"{rate:.4g}")})
    here, one = (np.array([np.median(found) for found in times[clients]]) for clients in (HERE, 1))
    overhead = {"best": rows[1]["ms"]["min"] - rows[0]["ms"]["min"], "median": 1e3 * np.median(one - here)}
    rows[1]["overhead_ms"] = {key: float(f"{value:.3g}") for key, value in overhead.items()}
    return rows


def _here(policy: Policy) -> Timed:
    generator, seen = torch.Generator().manual_seed(0), blank_observation(policy)
    return lambda seconds: _repeat(lambda: policy.sample(seen, generator=generator), seconds)


def _one(client: PolicyClient, seen: dict[str, np.ndarray], outside: list[float]) -> Timed:
    """A client; what a call takes beside the server's inference is added to `outside`, in seconds."""

    def ask() -> None:
        begun = time.perf_counter()
        reply = client.infer({**seen, KEY: {}})
        outside.append(time.perf_counter() - begun - 1e-3 * reply["server_timing"]["infer_ms"])

    return lambda seconds: _repeat(ask, seconds)


def _repeat(call: Callable[[], object], seconds: float) -> tuple[list[float], float]:
    found: list[float] = []
    while not found or sum(found) < seconds:
        begun = time.perf_counter()
        call()
        found.append(time.perf_counter() - begun)
    return found, len(found) / sum(found)


def _several(address: str, request: bytes, clients: int) -> Timed:
    async def run(seconds: float) -> tuple[list[float], float]:
        async with contextlib.AsyncExitStack() as stack:
            opened = [
                await stack.enter_async_context(connect(address, compression=None, proxy=None))
                for _ in range(clients)
            ]
            for connection in opened:
                await connection.recv()
            begun = time.perf_counter()

            async def ask(connection: Any) -> list[float]:
                found: list[float] = []
                while not found or time.perf_counter() - begun < seconds:
                    sent = time.perf_counter()
                    await connection.send(request)
                    unpack(await connection.recv())
                    found.append(time.perf_counter() - sent)
                return found

            found = await asyncio.gather(*(ask(connection) for connection in opened))
            every = [value for one in found for value in one]
            return every, len(every) / (time.perf_counter() - begun)

    return lambda seconds: asyncio.run(run(seconds))


@contextlib.contextmanager
def _server(checkpoint: Path, threads: int) -> Iterator[str]:
    """A server in a process of its own; gives its address."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(checkpoint, threads, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def _serve(checkpoint: Path, threads: int, pipe: Connection) -> None:
    torch.set_num_threads(threads)
    asyncio.run(PolicyServer(ServedPolicy(load(checkpoint)), ServerConfig(port=0)).run(pipe.send))
