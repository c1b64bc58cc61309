"""openpi's wire: msgpack with NumPy arrays, and the limits that a stranger's message has to keep.

An array is the map ``{b"__ndarray__": True, b"data": bytes, b"dtype": "<f4", b"shape": [2, 3]}``, a NumPy
scalar ``{b"__npgeneric__": True, b"data": number, b"dtype": "<f4"}``: what openpi's `msgpack_numpy` writes
and reads. Unpacking makes numbers, texts, lists, maps and arrays of numbers, and nothing else.
"""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np

from robopolicy.errors import RobopolicyError

__all__ = ["MAX_BYTES", "MAX_DIMENSIONS", "MAX_ENTRIES", "MAX_VALUES", "ProtocolError", "pack", "unpack"]

MAX_BYTES = 16 * 2**20
"""Of a message."""
MAX_VALUES = 20_000
"""In a message: entries of all its lists and maps together; an array counts as three."""
MAX_ENTRIES = 1024
"""Of one list or map."""
MAX_DIMENSIONS = 16

_KINDS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
_DTYPES = {dtype.str: dtype for kind in _KINDS for order in "<>" for dtype in [np.dtype(order + kind)]}


class ProtocolError(RobopolicyError, ValueError):
    """A message that is not what the protocol says."""


def pack(value: Any) -> bytes:
    """Numbers, texts, lists, maps and NumPy arrays as one message.

    Raises:
        ProtocolError: something else, or arrays of anything but booleans, integers and floats.
    """
    packed: bytes = msgpack.packb(value, default=_describe)
    return packed


def unpack(message: bytes) -> Any:
    """The value behind a message; its arrays are read-only.

    Raises:
        ProtocolError: not msgpack, more than the limits allow, or an array that is none.
    """
    count = _Count()
    try:
        return msgpack.unpackb(
            message,
            object_hook=count.map,
            list_hook=count.list,
            ext_hook=_refuse_extension,
            max_array_len=MAX_ENTRIES,
            max_map_len=MAX_ENTRIES,
        )
    except ProtocolError:
        raise
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise ProtocolError(
            f"Not a message that can be read: {type(error).__name__} {error}".strip()
        ) from error


class _Count:
    """Of values: a few bytes can ask for many objects, which would hold up everybody."""

    def __init__(self) -> None:
        self.left = MAX_VALUES

    def list(self, found: list[Any]) -> list[Any]:
        self._take(len(found) + 1)
        return found

    def map(self, found: dict[Any, Any]) -> Any:
        self._take(len(found) + 1)
        if b"__ndarray__" in found:
            return _array(found)
        if b"__npgeneric__" in found:
            return _scalar(found)
        return found

    def _take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise ProtocolError(
                f"A message holds more than {MAX_VALUES} values; send arrays instead of lists."
            )


def _describe(value: Any) -> dict[bytes, Any]:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise ProtocolError(f"{type(value).__name__} cannot be sent; numbers, texts and arrays can.")
    if value.dtype.str not in _DTYPES:
        raise ProtocolError(f"Arrays of {value.dtype} cannot be sent; booleans, integers and floats can.")
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}


def _array(found: dict[Any, Any]) -> np.ndarray:
    data, shape, dtype = found.get(b"data"), found.get(b"shape"), _dtype(found)
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or any(type(n) is not int for n in shape):
        raise ProtocolError(f"An array's shape is a list of at most {MAX_DIMENSIONS} integers.")
    if not isinstance(data, bytes) or min(shape, default=0) < 0:
        raise ProtocolError("An array has its data as bytes and no negative length.")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ProtocolError(f"{len(data)} bytes are no array of {dtype} {shape}.")
    return np.ndarray(shape, dtype, data)


def _scalar(found: dict[Any, Any]) -> Any:
    value = found.get(b"data")
    if not isinstance(value, (bool, int, float)):
        raise ProtocolError(f"A number was expected, got {type(value).__name__}.")
    return _dtype(found).type(value)


def _dtype(found: dict[Any, Any]) -> np.dtype:
    name = found.get(b"dtype")
    if not isinstance(name, str) or name not in _DTYPES:
        raise ProtocolError(f"Arrays are of booleans, integers or floats, got dtype {str(name)[:20]!r}.")
    return _DTYPES[name]


def _refuse_extension(code: int, data: bytes) -> Any:
    raise ProtocolError(f"Extension types (here {code}, {len(data)} bytes) are not taken.")
