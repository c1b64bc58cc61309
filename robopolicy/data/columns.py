"""Zarr arrays that grow along time and survive a writer killed between any two writes.

zarr's own `append` makes an array longer before its new chunks exist. A `Column` writes chunks first and
the new length last, each in one store operation (atomic for local directories and object stores), so what
a shape covers is always there. Formats 2 and 3 hold the same chunk bytes here; only the metadata differ.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import math
import os
import struct
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numcodecs
import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.buffer.cpu import buffer_prototype
from zarr.codecs import BloscCodec
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, ZipStore

from robopolicy.errors import DataError

__all__ = [
    "CHUNK_BYTES",
    "MAX_CHUNK_FRAMES",
    "Column",
    "Dropped",
    "Write",
    "checksum",
    "drop_beyond",
    "get",
    "list_dir",
    "open_location",
    "put",
]

CHUNK_BYTES = {"image": 1 << 17, "state": 1 << 20, "meta": 1 << 13}
MAX_CHUNK_FRAMES = 8

Write = tuple[str, bytes]


def open_location(path: str | os.PathLike[str] | Store, *, read_only: bool) -> Store:
    """The zarr store at a local path, a .zip of one, or an fsspec URL. ``file://`` is a local path."""
    if isinstance(path, Store):
        return path
    text = os.fspath(path)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if "://" in text:
        return FsspecStore.from_url(text, read_only=read_only)
    if text.endswith(".zip"):
        return ZipStore(Path(text), read_only=True)
    return LocalStore(Path(text).expanduser().absolute(), read_only=read_only)


def put(store: Store, writes: Iterable[Write]) -> None:
    """Write all, each atomically and in no particular order. The first failure is raised after all ended."""

    async def run() -> None:
        results = await asyncio.gather(
            *(store.set(key, buffer_prototype.buffer.from_bytes(value)) for key, value in writes),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    sync(run())


def get(store: Store, key: str) -> bytes | None:
    """The bytes under a key; None where there are none."""
    value = sync(store.get(key, buffer_prototype))
    return None if value is None else value.to_bytes()


def list_dir(store: Store, prefix: str) -> list[str]:
    """Names directly under a prefix, but for the temporary files of local writes."""

    async def run() -> list[str]:
        return [name async for name in store.list_dir(prefix)]

    return sorted(name for name in sync(run()) if not name.endswith(".partial"))


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """Rows of an array beyond the last committed episode, left by a writer that did not finish."""

    array: str
    start: int
    rows: int

    def __str__(self) -> str:
        return f"{self.array}[{self.start}:{self.start + self.rows}]"


class Column:
    """One zarr array ``[rows, *shape]``, read anywhere and extended at its end.

    `rows` is the length that counts; the array on disk may be longer if a writer was killed.
    """

    def __init__(self, store: Store, name: str, where: str) -> None:
        self.name = name
        self.where = where
        self._store = store
        try:
            self._array = self._open()
        except Exception as error:
            raise DataError(f"{where}: cannot read the metadata of array {name!r}: {error}") from error
        if self._array.ndim == 0:
            raise DataError(f"{where}: array {name!r} has no time axis.")
        self.shape = tuple(self._array.shape[1:])
        self.dtype = np.dtype(self._array.dtype)
        self.stored_rows = int(self._array.shape[0])
        self.rows = self.stored_rows
        self._tail: np.ndarray | None = None
        self._grown = False
        self._document: dict[str, Any] | None = None

    @classmethod
    def create(
        cls,
        group: zarr.Group,
        name: str,
        where: str,
        *,
        shape: tuple[int, ...],
        dtype: str,
        kind: Literal["image", "state", "meta"],
    ) -> Column:
        """A new column of no rows. Images hold one to a few frames a chunk, states about 1 MB."""
        row_bytes = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
        chunk_rows = max(1, CHUNK_BYTES[kind] // row_bytes)
        if kind == "image":
            chunk_rows = min(chunk_rows, MAX_CHUNK_FRAMES)
        # Pictures gain from a stronger code; the tail of a state column is encoded anew at every append.
        settings: dict[str, Any] = (
            {"cname": "zstd", "clevel": 3} if kind == "image" else {"cname": "lz4", "clevel": 5}
        )
        extra: dict[str, Any] = {}
        compressor: Any
        if group.metadata.zarr_format == 2:
            compressor = numcodecs.Blosc(shuffle=numcodecs.Blosc.SHUFFLE, **settings)
        else:
            compressor = BloscCodec(shuffle="shuffle", **settings)
            extra["chunk_key_encoding"] = {"name": "default", "separator": "."}
        group.create_array(
            name, shape=(0, *shape), chunks=(chunk_rows, *shape), dtype=dtype,
            compressors=compressor, fill_value=0, **extra,
        )  # fmt: skip
        return cls(group.store, name, where)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, uncompressed."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows ``[start, stop)`` as stored.

        Raises:
            DataError: a chunk is missing its bytes or cannot be decoded; names the file.
        """
        if self._grown:
            self._array = self._open()
            self._grown = False
        if truncated := self.truncated_chunks(start, stop):
            raise DataError(f"{self.where}: chunk file {truncated[0]} is truncated.")
        try:
            return np.ascontiguousarray(self._array[start:stop])
        except Exception as error:
            raise DataError(
                f"{self.where}: cannot read rows {start}..{stop} of {self.name!r}: "
                f"{self._culprit(start, stop) or error}"
            ) from error

    def writes(self, rows: np.ndarray) -> tuple[list[Write], Write]:
        """What to write to hold `rows` after the present ones: the chunks, then the metadata.

        Nothing changes here until `advance`; a failed write is simply written over by the next.
        """
        chunk = self._array.chunks[0]
        first = self.rows // chunk
        if self._tail is None:
            self._tail = self.read(first * chunk, self.rows)
        block = np.concatenate([self._tail, rows.astype(self.dtype, copy=False)])
        chunks = []
        for offset in range(0, len(block), chunk):
            full = np.zeros((chunk, *self.shape), self.dtype)
            part = block[offset : offset + chunk]
            full[: len(part)] = part
            key = self._array.metadata.encode_chunk_key((first + offset // chunk, *(0 for _ in self.shape)))
            chunks.append((f"{self.name}/{key}", bytes(self._encoder().encode(full))))
        return chunks, self.metadata(self.rows + len(rows))

    def advance(self, rows: np.ndarray) -> None:
        """Count `rows` as present, after what `writes` returned for them was written."""
        chunk = self._array.chunks[0]
        assert self._tail is not None
        block = np.concatenate([self._tail, rows.astype(self.dtype, copy=False)])
        self.rows += len(rows)
        self.stored_rows = self.rows
        self._tail = block[len(block) - self.rows % chunk :].copy()
        self._grown = True

    def metadata(self, rows: int) -> Write:
        """The metadata document that gives the array this length."""
        file = ".zarray" if self._array.metadata.zarr_format == 2 else "zarr.json"
        if self._document is None:
            self._document = json.loads(get(self._store, f"{self.name}/{file}") or b"{}")
        document = {**self._document, "shape": [rows, *self.shape]}
        return f"{self.name}/{file}", json.dumps(document, indent=1).encode()

    def truncate(self, rows: int) -> None:
        """Set the length on disk to `rows`; chunks beyond it are overwritten by the next writes."""
        put(self._store, [self.metadata(rows)])
        self.rows = self.stored_rows = rows
        self._tail, self._grown = None, True

    def missing_chunks(self) -> list[str]:
        """Chunk files the present rows need that are not there: zarr would read them as zeros."""
        expected = self._chunk_keys(0, self.rows)
        if isinstance(self._store, LocalStore):
            root = self._store.root / self.name
            return [f"{self.name}/{key}" for key in expected if not (root / key).is_file()]

        async def names() -> set[str]:
            return {key async for key in self._store.list_prefix(f"{self.name}/")}

        present = sync(names())
        return [f"{self.name}/{key}" for key in expected if f"{self.name}/{key}" not in present]

    def truncated_chunks(self, start: int = 0, stop: int | None = None) -> list[str]:
        """Local chunk files shorter or longer than their blosc header or their shape says.

        Blosc itself reads past the end of a truncated chunk and returns garbage.
        """
        if not isinstance(self._store, LocalStore):
            return []
        codecs = list(getattr(self._array, "compressors", ()))
        blosc = bool(codecs) and "blosc" in type(codecs[-1]).__name__.lower()
        plain = not codecs and not getattr(self._array, "filters", ()) and self._array.shards is None
        if not (blosc or plain):
            return []
        bad = []
        for key in self._chunk_keys(start, self.rows if stop is None else stop):
            path = self._store.root / self.name / key
            if not path.is_file():
                continue
            with path.open("rb") as file:
                header = file.read(16)
                size = os.fstat(file.fileno()).st_size
            wanted = math.prod(self._array.chunks) * self.dtype.itemsize
            if blosc:
                wanted = struct.unpack("<I", header[12:16])[0] if len(header) == 16 else -1
            if size != wanted:
                bad.append(f"{self.name}/{key} ({size} bytes, {wanted} expected)")
        return bad

    def _open(self) -> zarr.Array:
        mode: Literal["r", "r+"] = "r" if self._store.read_only else "r+"
        return zarr.open_array(self._store, path=self.name, mode=mode)

    def _encoder(self) -> numcodecs.Blosc:
        codec = self._array.compressors[0]
        if isinstance(codec, numcodecs.Blosc):
            return codec
        blosc = cast(BloscCodec, codec)
        return numcodecs.Blosc(cname=blosc.cname.value, clevel=blosc.clevel, shuffle=numcodecs.Blosc.SHUFFLE)

    def _chunk_keys(self, start: int, stop: int) -> list[str]:
        sizes = self._array.shards or self._array.chunks
        grid = [range(start // sizes[0], math.ceil(stop / sizes[0]))]
        grid += [range(math.ceil(n / c)) for n, c in zip(self.shape, sizes[1:], strict=True)]
        return [self._array.metadata.encode_chunk_key(where) for where in itertools.product(*grid)]

    def _culprit(self, start: int, stop: int) -> str:
        size = (self._array.shards or self._array.chunks)[0]
        for begin in range(start - start % size, stop, size):
            try:
                _ = self._array[begin : min(begin + size, self.stored_rows)]
            except Exception as error:  # noqa: BLE001 - whatever a codec raises, its file is the culprit
                files = ", ".join(f"{self.name}/{key}" for key in self._chunk_keys(begin, begin + 1))
                return f"chunk file {files}: {error}"
        return ""


def drop_beyond(store: Store, owned: Mapping[Column, int], what: str, *, repair: bool) -> tuple[Dropped, ...]:
    """Leave out the rows of each column beyond those that episodes own, and warn.

    With `repair` they are cut, and what local writes that were cut off have left anywhere is removed.
    """
    dropped = []
    for column, rows in owned.items():
        if column.rows > rows:
            dropped.append(Dropped(array=column.name, start=rows, rows=column.rows - rows))
            column.rows = rows
            if repair:
                column.truncate(rows)
    if repair and isinstance(store, LocalStore):
        for leftover in store.root.rglob("*.partial"):
            leftover.unlink()
    if dropped:
        listed = ", ".join(map(str, dropped))
        warnings.warn(f"{what}; a writer did not finish, left out: {listed}.", stacklevel=4)
    return tuple(dropped)


def checksum(arrays: Mapping[str, np.ndarray]) -> int:
    """64-bit hash of names, types, shapes and contents."""
    digest = hashlib.blake2b(digest_size=8)
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key])
        digest.update(f"{key}/{array.dtype.str}/{array.shape}/".encode())
        digest.update(array.data)
    return int.from_bytes(digest.digest(), "little", signed=True)
