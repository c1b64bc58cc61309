"""The fast codec equals the generic one, the checksum equals its definition, corrupt bytes raise."""

from __future__ import annotations

import inspect
import typing
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")

from cyclonedds.idl import IdlStruct

from hardware.transport import idl_ros, idl_unitree
from hardware.transport.idl_unitree import (
    CorruptMessage,
    LowCmd,
    LowCmdIdl,
    LowState,
    LowStateIdl,
    checksum,
)

PAIRS = [(LowCmd, LowCmdIdl, 1000), (LowState, LowStateIdl, 2088)]


def bitwise(words: np.ndarray) -> int:
    """The checksum as Unitree defines it, bit by bit."""
    crc = 0xFFFFFFFF
    for word in words.tolist():
        for bit in range(31, -1, -1):
            top = crc >> 31
            crc = (crc << 1) & 0xFFFFFFFF
            if top:
                crc ^= 0x04C11DB7
            if word >> bit & 1:
                crc ^= 0x04C11DB7
    return crc


def randomised(kind: Any, rng: np.random.Generator) -> Any:
    """A message with every field set; padding stays zero."""
    message = kind()
    fill(message.record.reshape(1), rng)
    return message


def fill(record: np.ndarray, rng: np.random.Generator) -> None:
    names = record.dtype.names
    if names:
        for name in names:
            fill(record[name], rng)
    elif record.dtype.kind == "f":
        record[...] = rng.normal(size=record.shape)
    else:
        limits = np.iinfo(record.dtype)
        record[...] = rng.integers(limits.min, limits.max, record.shape, endpoint=True)


def generic(value: Any, hint: Any) -> Any:
    """The same value for Cyclone's own classes and serialiser."""
    if inspect.isclass(hint) and issubclass(hint, IdlStruct):
        hints = typing.get_type_hints(hint, include_extras=True)
        return hint(**{name: generic(value[name], hints[name]) for name in value.dtype.names})
    if value.ndim:
        inner = next(
            (m.subtype for m in getattr(hint, "__metadata__", ()) if hasattr(m, "subtype")), type(None)
        )
        return [generic(entry, inner) for entry in value]
    return value.item()


@pytest.mark.parametrize(("fast", "slow", "size"), PAIRS)
def test_record_equals_the_generic_serialiser(fast: Any, slow: Any, size: int) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        message = randomised(fast, rng)
        data = message.serialize()
        assert len(data) == 4 + size
        assert data == generic(message.record, slow).serialize()
        again = fast.deserialize(data)
        assert again.record.tobytes() == message.record.tobytes()
        assert slow.deserialize(data).crc == int(message.record["crc"])


def test_checksum_equals_its_definition() -> None:
    rng = np.random.default_rng(4)
    for count in (1, 2, 250, 522):
        words = rng.integers(0, 2**32, count, dtype=np.uint32)
        assert checksum(words.astype("<u4").tobytes()) == bitwise(words)
    # CRC-32/MPEG-2 of the bytes 0x00000000: a published value.
    assert checksum(bytes(4)) == 0xC704DD7B


@pytest.mark.parametrize(("fast", "slow", "size"), PAIRS)
def test_any_corruption_is_refused(fast: Any, slow: Any, size: int) -> None:
    rng = np.random.default_rng(5)
    good = randomised(fast, rng).serialize()
    for at in rng.integers(4, len(good), 300):
        bad = bytearray(good)
        bad[at] ^= 1 << int(rng.integers(8))
        with pytest.raises(CorruptMessage, match="checksum"):
            fast.deserialize(bytes(bad))
    for length in (0, 3, 4, size, size + 3, size + 5, 4 * size):
        with pytest.raises(CorruptMessage, match="bytes"):
            fast.deserialize(good.ljust(length, b"\0")[:length])
    with pytest.raises(CorruptMessage, match="little-endian"):
        fast.deserialize(b"\0\0" + good[2:])
    with pytest.raises(CorruptMessage):
        fast.deserialize(rng.bytes(size + 4))


def test_octets_are_never_numbers() -> None:
    """Cyclone 0.10 peers do not match types that mention uint8 or int8."""
    seen = 0
    for module in (idl_ros, idl_unitree):
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, IdlStruct) and kind is not IdlStruct:
                seen += 1
                for name, hint in typing.get_type_hints(kind, include_extras=True).items():
                    assert "int8" not in repr(hint), f"{kind.__name__}.{name} is {hint}"
    assert seen > 20


def test_the_octet_rule_can_fail() -> None:
    types = pytest.importorskip("cyclonedds.idl.types", reason="DDS is the extra robopolicy[ros]")
    assert "int8" in repr(types.uint8)
    assert "int8" in repr(types.sequence[types.uint8])
    assert "int8" not in repr(types.byte)
