"""Policies over a network: openpi's websocket and msgpack, a server for any model, a client without torch."""

from __future__ import annotations

from robopolicy.errors import RobopolicyError


class MissingExtra(RobopolicyError, ImportError):
    """Serving was asked for whose packages are not installed."""


try:
    import msgpack as msgpack
    import websockets as websockets
except ImportError as error:
    raise MissingExtra(
        f"Serving needs msgpack and websockets ({error}). "
        "Install them with: pip install 'robopolicy[serving]'"
    ) from error

__all__ = ["MissingExtra"]
