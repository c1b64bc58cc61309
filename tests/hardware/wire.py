"""What tests of the wire share."""

from __future__ import annotations

import itertools
import os

from hardware.transport.dds import Network

# Ports of domains up to 101 stay below the range from which Linux hands out client ports. Test processes that
# run side by side start at different domains.
_LAST = 101
_domains = itertools.count(os.getpid() * 7)


def free_network() -> Network:
    """A loopback network of a test's own."""
    return Network(domain=1 + next(_domains) % _LAST)
