from __future__ import annotations

import contextlib
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from robopolicy.serving.wire import MAX_ENTRIES, MAX_VALUES, ProtocolError, pack, unpack
from tests.serving.models import openpi_pack, openpi_unpack

NUMBERS = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
)
ARRAYS = hnp.arrays(NUMBERS, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))


def same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    assert one.dtype == other.dtype
    assert one.dtype.str == other.dtype.str
    assert one.shape == other.shape
    assert one.tobytes() == other.tobytes()


@settings(deadline=None)
@given(ARRAYS)
def test_arrays_come_back_bit_for_bit(array: np.ndarray) -> None:
    same(unpack(pack(array)), array)
    same(unpack(pack({"a": [array]}))["a"][0], array)
    same(unpack(pack(array.T)), array.T.copy())
    if array.ndim:
        same(unpack(pack(array[::-1])), array[::-1].copy())


@settings(deadline=None)
@given(ARRAYS)
def test_bytes_are_those_of_openpi_both_ways(array: np.ndarray) -> None:
    assert pack({"x": array}) == openpi_pack({"x": array})
    same(openpi_unpack(pack(array)), array)
    same(unpack(openpi_pack(array)), array)


def test_bytes_of_a_message() -> None:
    expected = (
        b"\x81\xa1x" + b"\x84" + b"\xc4\x0b__ndarray__\xc3" + b"\xc4\x04data\xc4\x04\x01\x00\x02\x00"
        b"\xc4\x05dtype\xa3<i2" + b"\xc4\x05shape\x91\x02"
    )
    assert pack({"x": np.array([1, 2], np.int16)}) == expected
    scalar = b"\x83\xc4\x0d__npgeneric__\xc3\xc4\x04data\x07\xc4\x05dtype\xa3|u1"
    assert pack(np.uint8(7)) == scalar
    same(unpack(scalar), np.uint8(7))


def test_openpi_client_packs_and_unpacks_the_same() -> None:
    theirs = pytest.importorskip(
        "openpi_client.msgpack_numpy",
        reason="compares with openpi's own client: pip install --no-deps openpi-client",
        exc_type=ImportError,
    )
    value = {"a": np.arange(6, dtype=">f4").reshape(2, 3), "b": np.int16(3), "prompt": "do it", "c": [1, 2.5]}
    assert theirs.packb(value) == pack(value)
    back = theirs.unpackb(pack(value))
    same(back["a"], value["a"])
    same(unpack(theirs.packb(value))["b"], value["b"])


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=20,
    )
)
def test_plain_values_come_back(value: Any) -> None:
    assert unpack(pack(value)) == value


@pytest.mark.parametrize(
    "value",
    [
        np.array(["text"]),
        np.array([object()]),
        np.zeros(2, np.complex64),
        np.zeros(1, "datetime64[s]"),
        object(),
    ],
)
def test_what_cannot_be_sent_is_named(value: Any) -> None:
    with pytest.raises(ProtocolError, match="cannot be sent"):
        pack({"x": value})


def array(**changes: Any) -> bytes:
    fields = {"__ndarray__": True, "data": b"\0" * 8, "dtype": "<f4", "shape": [2], **changes}
    packed: bytes = msgpack.packb({key.encode(): value for key, value in fields.items()})
    return packed


@pytest.mark.parametrize(
    "message, reason",
    [
        (b"", "incomplete"),
        (b"\xc1", "FormatError"),
        (b"\x90\x90", "extra data"),
        (b"\xa2\xff\xfe", "Unicode"),
        (b"\x91" * 5000, "StackError"),
        (b"\xdd\xff\xff\xff\xff", "max_array_len"),
        (b"\xdf\xff\xff\xff\xff", "max_map_len"),
        (b"\xc6\xff\xff\xff\xff", "."),
        (msgpack.packb([0] * (MAX_ENTRIES + 1)), "max_array_len"),
        (msgpack.packb([[0] * 1000] * (MAX_VALUES // 1000 + 1)), f"more than {MAX_VALUES} values"),
        (msgpack.packb(msgpack.ExtType(4, b"x")), "Extension"),
        (msgpack.packb({1: 2}), "not allowed for map key"),
        (array(dtype="|O"), "dtype"),
        (array(dtype="<U2"), "dtype"),
        (array(dtype="(2,2)f4"), "dtype"),
        (array(dtype=[1]), "dtype"),
        (array(shape=[3]), "8 bytes are no array"),
        (array(shape=[-2]), "negative"),
        (array(shape=[2.0]), "integers"),
        (array(shape=[True, 2]), "integers"),
        (array(shape=[1] * 17), "at most 16"),
        (array(shape=None), "shape"),
        (array(shape=[0, 2**62, 2**62], data=b""), "."),
        (array(data="text"), "bytes"),
        (array(data=None), "bytes"),
        (msgpack.packb({b"__npgeneric__": True, b"data": "x", b"dtype": "<f4"}), "number"),
        (msgpack.packb({b"__npgeneric__": True, b"data": 1.0}), "dtype"),
    ],
)
def test_what_cannot_be_read_is_refused(message: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        unpack(message)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_refused(message: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        unpack(message)
