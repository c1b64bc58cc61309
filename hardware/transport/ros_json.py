"""ROS 2 messages as the JSON of rosbridge, and back.

As rosbridge_suite has it: octets are base64, numbers that are not finite are null (and null is NaN here), and
fields that the type lacks are refused. A server sends every field; clients may leave some out.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from hardware.transport import idl_types as types

__all__ = ["from_json", "to_json"]

T = TypeVar("T")

_RANGES = {
    "byte": (0, 2**8 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
}


class _Codec(NamedTuple):
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def to_json(message: Any) -> dict[str, Any]:
    """What ``json.dumps`` takes, of a message of `hardware.transport.idl_ros`."""
    kind: Any = type(message)
    encoded: dict[str, Any] = _struct(kind, False).encode(message)
    return encoded


def from_json(kind: type[T], value: Any, *, partial: bool = False) -> T:
    """A message from what ``json.loads`` made.

    Args:
        partial: missing fields have their defaults. Not on the robot's side of us: an empty message on a stop
            topic would say "go on".

    Raises:
        TypeError, ValueError, OverflowError: it is no message of this class.
    """
    described: Any = kind
    message: T = _struct(described, partial).decode(value)
    return message


@functools.cache
def _struct(kind: Any, partial: bool) -> _Codec:
    codecs = {field.name: _codec(field.type, partial) for field in dataclasses.fields(kind)}

    def encode(message: Any) -> dict[str, Any]:
        return {name: codec.encode(getattr(message, name)) for name, codec in codecs.items()}

    def decode(value: Any) -> Any:
        if not isinstance(value, dict):
            raise TypeError(f"{kind.__name__} is an object, got {type(value).__name__}.")
        if not value.keys() <= codecs.keys():
            raise ValueError(f"{kind.__name__} has no {sorted(value.keys() - codecs.keys())}.")
        if not partial and len(value) < len(codecs):
            raise ValueError(f"{kind.__name__} came without {sorted(codecs.keys() - value.keys())}.")
        return kind(**{name: codecs[name].decode(item) for name, item in value.items()})

    return _Codec(encode, decode)


def _codec(annotation: Any, partial: bool) -> _Codec:
    if annotation is str or annotation is bool:
        return _Codec(lambda value: value, functools.partial(_exactly, annotation))
    metadata = getattr(annotation, "__metadata__", ())
    if not metadata:
        return _struct(annotation, partial)
    (described,) = metadata
    if annotation == types.octets:
        return _Codec(lambda value: base64.b64encode(value).decode("ascii"), _octets)
    if isinstance(described, str) and described.startswith("float"):
        return _Codec(_number, _float)
    if isinstance(described, str):
        return _Codec(lambda value: value, functools.partial(_integer, *_RANGES[described]))
    item = _codec(described.subtype, partial)
    return _Codec(
        lambda value: [item.encode(entry) for entry in value],
        lambda value: [item.decode(entry) for entry in _exactly(list, value)],
    )


def _exactly(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"Expected {kind.__name__}, got {type(value).__name__}.")
    return value


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _float(value: Any) -> float:
    if value is None:
        return math.nan
    if type(value) is float:
        return value
    return float(_exactly(int, value))


def _integer(low: int, high: int, value: Any) -> int:
    if not low <= _exactly(int, value) <= high:
        raise ValueError(f"{value} is outside [{low}, {high}].")
    return int(value)


def _octets(value: Any) -> bytes:
    if isinstance(value, str):
        return base64.b64decode(value, validate=True)
    return bytes(_exactly(list, value))
