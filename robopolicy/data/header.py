"""What a store says about itself: its attributes, or what its arrays imply."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from zarr.abc.store import Store

from robopolicy.data.columns import Column, Write, get
from robopolicy.errors import DataError
from robopolicy.registry import plain
from robopolicy.spec import Spec

__all__ = ["DEFAULT_CONTROL_HZ", "FORMAT", "Header", "read_header"]

FORMAT = 1
DEFAULT_CONTROL_HZ = 10.0


@dataclass(frozen=True, kw_only=True)
class Header:
    """Attributes of a store, under the name "robopolicy" of the root group."""

    spec: Spec
    task: dict[str, Any] | None = None
    extra: Mapping[str, tuple[int, ...]]
    instructions: tuple[str, ...] = ("",)
    """Table that ``meta/instruction`` points into."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    native: bool = True
    """Written by this library (a plain Diffusion Policy zarr is not)."""

    def write(self, zarr_format: int) -> Write:
        """The write that puts this header into a root group."""
        values = {
            "format": FORMAT,
            "spec": self.spec.to_dict(),
            "task": plain(self.task),
            "extra": plain(self.extra),
            "origin": plain(self.origin),
            "instructions": list(self.instructions),
        }
        if zarr_format == 2:
            return ".zattrs", json.dumps({"robopolicy": values}, indent=1).encode()
        document = {"zarr_format": 3, "node_type": "group", "attributes": {"robopolicy": values}}
        return "zarr.json", json.dumps(document, indent=1).encode()

    def with_instruction(self, text: str) -> Header:
        """The same header with one more instruction in its table, unless it is there."""
        return self if text in self.instructions else replace(self, instructions=(*self.instructions, text))


def read_header(
    store: Store, columns: Mapping[str, Column], where: str, control_hz: float | None
) -> tuple[Header, int]:
    """The header of a store and its zarr format.

    Raises:
        DataError: attributes that are damaged or made by a newer version.
    """
    zarr_format = 3 if get(store, "zarr.json") is not None else 2
    file = "zarr.json" if zarr_format == 3 else ".zattrs"
    try:
        document = json.loads(get(store, file) or b"{}")
    except ValueError as error:
        raise DataError(f"{where}: {file} is damaged: {error}. Copy it again from where it came.") from error
    values = (document.get("attributes", {}) if zarr_format == 3 else document).get("robopolicy")
    if values is None:
        return _infer(columns, where, control_hz), zarr_format
    if values.get("format", 0) > FORMAT:
        raise DataError(
            f"{where} has store format {values['format']}, this version reads up to {FORMAT}. "
            "Install a newer robopolicy."
        )
    try:
        header = Header(
            spec=Spec.from_dict(values["spec"]),
            task=values["task"],
            extra={key: tuple(shape) for key, shape in values["extra"].items()},
            instructions=tuple(values["instructions"]),
            origin=values.get("origin", {}),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where}: its attributes are damaged: {error}") from error
    return header, zarr_format


def _infer(columns: Mapping[str, Column], where: str, control_hz: float | None) -> Header:
    if control_hz is None:
        control_hz = DEFAULT_CONTROL_HZ
        warnings.warn(
            f"{where} does not say its control rate; {control_hz} Hz is assumed. Give control_hz to set it.",
            stacklevel=6,
        )
    arrays = {key: np.empty((0, *column.shape), column.dtype) for key, column in columns.items()}
    action = arrays.pop("action")
    if action.ndim != 2:
        raise DataError(f"{where}: 'data/action' must be [N, Da], its rows have shape {action.shape[1:]}.")
    if not arrays:
        raise DataError(f"{where}: there are no observations beside 'data/action'.")
    return Header(spec=Spec.from_arrays(arrays, action, control_hz=control_hz), extra={}, native=False)
