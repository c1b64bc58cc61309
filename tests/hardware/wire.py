"""What tests of the wire share."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Callable

from hardware.transport.dds import Network

# Ports of domains up to 101 stay below the range from which Linux hands out client ports. Workers of one run
# never share a domain (two robots on one topic are a fault), and runs side by side start at different ones.
_WORKERS, _EACH = 4, 25
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
_turns = itertools.count(os.getppid() * 7)


def free_network() -> Network:
    """A loopback network of a test's own."""
    return Network(domain=1 + _worker * _EACH + next(_turns) % _EACH)


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def eventually(what: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)
