"""Cyclone's IDL types, which type checkers cannot read, with what they hold in Python."""

from typing import TYPE_CHECKING, Any, TypeVar

from hardware.extras import require

require("cyclonedds", extra="ros", purpose="Talking to robots over DDS")

from cyclonedds.idl import annotations  # noqa: E402

if TYPE_CHECKING:
    from typing import Annotated as array  # noqa: N813

    byte = int
    int16 = int
    int32 = int
    int64 = int
    uint32 = int
    float32 = float
    float64 = float
    sequence = list
    octets = bytes

    class IdlStruct:
        """A message: a dataclass that knows its bytes."""

        __idl__: Any

        def __init_subclass__(cls, typename: str = "") -> None: ...
        def serialize(self, *args: Any, **kwargs: Any) -> bytes: ...
        @classmethod
        def deserialize(cls, data: bytes, *args: Any, **kwargs: Any) -> Any: ...

else:
    from cyclonedds.idl import IdlStruct
    from cyclonedds.idl.types import (
        array,
        byte,
        float32,
        float64,
        int16,
        int32,
        int64,
        sequence,
        uint32,
    )

    octets = sequence[byte]

C = TypeVar("C", bound=type)


def final(kind: C) -> C:
    """Class decorator: fields are numbered in order and none are ever added, as ROS 2 and Unitree have it."""
    numbered: Any = annotations.autoid("sequential")
    closed: Any = annotations.final
    return closed(numbered(kind))


__all__ = [
    "IdlStruct",
    "array",
    "byte",
    "final",
    "float32",
    "float64",
    "int16",
    "int32",
    "int64",
    "octets",
    "sequence",
    "uint32",
]
