"""What tests of the wire share."""

from __future__ import annotations

import itertools
import os

from hardware.transport.dds import Network

# Ports of domains up to 101 stay below the range from which Linux hands out client ports. Workers of one run
# never share a domain (two robots on one topic are a fault), and runs side by side start at different ones.
_WORKERS, _EACH = 4, 25
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
_turns = itertools.count(os.getppid() * 7)


def free_network() -> Network:
    """A loopback network of a test's own."""
    return Network(domain=1 + _worker * _EACH + next(_turns) % _EACH)
