"""Checks every episode passes before it is stored, and every stored array before it is used."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np

from robopolicy.data.columns import Column
from robopolicy.data.header import Header
from robopolicy.errors import DataError, unknown

__all__ = [
    "CHECKED_ROW_BYTES",
    "check_episode",
    "check_files",
    "check_finite",
    "check_structure",
    "first_not_finite",
]

CHECKED_ROW_BYTES = 4096
"""Arrays with larger rows (float pictures) are checked when they are read, not when a store is opened."""


def check_episode(
    arrays: Mapping[str, np.ndarray], columns: Mapping[str, Column], where: str
) -> dict[str, np.ndarray]:
    """The arrays as they will be stored: ``{key: [T, *shape]}`` in the dtype of each column.

    Floats may change width; nothing else is converted.

    Raises:
        DataError: missing or extra key, wrong shape or dtype, unequal lengths, no rows, NaN or infinity.
    """
    for key in columns:
        if key not in arrays:
            raise DataError(f"{where}: key {key!r} is missing. Given: {', '.join(sorted(arrays))}.")
    for key in arrays:
        if key not in columns:
            raise DataError(f"{where}: " + unknown("key", key, columns))
    checked = {}
    for key, column in columns.items():
        shape, dtype = column.shape, column.dtype
        array = np.asarray(arrays[key])
        if array.ndim == 0 or array.shape[1:] != shape:
            wanted = ", ".join(map(str, ("T", *shape)))
            raise DataError(f"{where}: {key!r} has shape {list(array.shape)}, wanted [{wanted}].")
        both_floats = array.dtype.kind == "f" and dtype.kind == "f"
        if array.dtype != dtype and not both_floats:
            raise DataError(f"{where}: {key!r} is {array.dtype}, the store holds {dtype}. Convert it first.")
        checked[key] = array.astype(dtype, copy=False)
    lengths = {key: len(array) for key, array in checked.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{key}={n}" for key, n in lengths.items())
        raise DataError(f"{where}: keys differ in length: {listed}.")
    if not next(iter(lengths.values())):
        raise DataError(f"{where}: the episode is empty.")
    for key, array in checked.items():
        row = first_not_finite(array)
        if row is not None:
            raise DataError(f"{where}: {key!r} has NaN or infinity, first in row {row}.")
    return checked


def first_not_finite(array: np.ndarray) -> int | None:
    """The first row ``[T, ...]`` with a NaN or an infinity; None if there is none."""
    if array.dtype.kind != "f":
        return None
    finite = np.isfinite(array)
    if finite.all():
        return None
    return int(np.argmax(~finite.reshape(len(array), -1).all(axis=1)))


def check_finite(key: str, array: np.ndarray, ends: np.ndarray, where: str, offset: int = 0) -> None:
    """Raise if stored rows ``[n, ...]`` from `offset` on hold a NaN or an infinity; names episode and row."""
    row = first_not_finite(array)
    if row is not None:
        row += offset
        episode = int(np.searchsorted(ends, row, side="right"))
        inside = row - int(ends[episode - 1]) if episode else row
        raise DataError(
            f"{where}: {key!r} has NaN or infinity in episode {episode}, first in its row {inside} "
            f"(row {row} of data/{key}). Remove or repair that episode."
        )


def check_structure(header: Header, columns: Mapping[str, Column], rows: int, where: str) -> None:
    """Raise unless every array the header speaks of is there, of its shape and dtype and long enough."""
    wanted = {k: (o.shape, o.dtype) for k, o in header.spec.observations.items() if o.kind != "text"}
    wanted |= {key: (shape, "float64") for key, shape in header.extra.items()}
    wanted["action"] = ((header.spec.action.size,), str(columns["action"].dtype))
    for key, (shape, dtype) in wanted.items():
        if key not in columns:
            raise DataError(f"{where}: array 'data/{key}' is missing. Found: {', '.join(columns)}.")
        column = columns[key]
        if column.shape != shape or (header.native and column.dtype != dtype):
            raise DataError(
                f"{where}: 'data/{key}' holds {column.dtype} {list(column.shape)}, "
                f"its spec says {dtype} {list(shape)}."
            )
    for key, column in columns.items():
        if column.rows < rows:
            raise DataError(f"{where}: 'data/{key}' has {column.rows} rows, its episodes need {rows}.")


def check_files(column: Column, where: str, *, strict: bool) -> None:
    """Raise if a chunk file is missing or truncated; one that is absent only warns unless `strict`.

    zarr itself leaves out chunks of zeros, so in arrays of others an absent chunk may be meant.
    """
    missing = column.missing_chunks()
    if missing and strict:
        raise DataError(
            f"{where}: {len(missing)} chunk files of {column.name!r} are missing, first {missing[0]}."
        )
    if missing:
        warnings.warn(
            f"{where}: {len(missing)} chunk files of {column.name!r} are absent and read as zeros "
            f"(zarr leaves out chunks of zeros), first {missing[0]}.",
            stacklevel=5,
        )
    elif truncated := column.truncated_chunks():
        raise DataError(
            f"{where}: chunk file {truncated[0]} is truncated. Copy the store again from where it came from."
        )
