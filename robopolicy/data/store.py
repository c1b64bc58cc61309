"""Episodes in one zarr group, in the layout Diffusion Policy users have.

    data/<key>          float32 or uint8 [N, ...], all episodes concatenated; the action is data/action
    meta/episode_ends   int64 [E], exclusive cumulative ends
    meta/seed, meta/success, meta/instruction, meta/checksum   one entry an episode
    attributes          "robopolicy": spec, task, extra columns, table of instructions

An episode is appended data first, per-episode entries next and `episode_ends` last, so a writer killed at
any point loses only the episode it was writing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.storage import LocalStore

from robopolicy.data.columns import Column, Dropped, checksum, drop_beyond, get, list_dir, open_location, put
from robopolicy.data.header import Header, read_header
from robopolicy.data.validation import (
    CHECKED_ROW_BYTES,
    check_episode,
    check_files,
    check_finite,
    check_structure,
)
from robopolicy.errors import DataError, unknown
from robopolicy.spec import ActionSpec, Spec

__all__ = ["ENDS", "META", "UNKNOWN", "EpisodeStore", "Location"]

ENDS = "meta/episode_ends"
META: dict[str, str] = {"seed": "int64", "success": "int8", "instruction": "int64", "checksum": "int64"}
UNKNOWN = -1

Location = str | os.PathLike[str] | Store


class EpisodeStore:
    """Episodes of one `Spec`. Made by `create`, `open` or `from_arrays`; needs no closing."""

    dropped: tuple[Dropped, ...]
    """What opening left out: rows no committed episode owns."""

    def __init__(self, store: Store, where: str, *, writable: bool, control_hz: float | None) -> None:
        self.where = where
        self._store = store
        self._writable = writable
        if get(store, f"{ENDS}/.zarray") is None and get(store, f"{ENDS}/zarr.json") is None:
            raise DataError(
                f"{where} is not an episode store: there is no array {ENDS!r}. "
                "Check the path; if its creation was interrupted, create it anew with overwrite=True."
            )
        self._ends = Column(store, ENDS, where)
        self._ends_array = self._read_ends()
        names = [name for name in list_dir(store, "data") if not name.startswith((".", "zarr.json"))]
        self._data = {name: Column(store, f"data/{name}", where) for name in names}
        if "action" not in self._data:
            raise DataError(f"{where}: there is no 'data/action'. Found: {', '.join(names) or 'nothing'}.")
        self._header, self._format = read_header(store, self._data, where, control_hz)
        if writable and not self._header.native:
            raise DataError(f"{where} was not made by this library and opens with mode='r' only.")
        self._meta = {n: Column(store, f"meta/{n}", where) for n in list_dir(store, "meta") if n in META}
        check_structure(self._header, self._data, self._rows, where)
        owned = dict.fromkeys(self._data.values(), self._rows) | {c: len(self) for c in self._meta.values()}
        committed = f"{where}: {len(self)} episodes are committed"
        self.dropped = drop_beyond(store, owned, committed, repair=writable)
        for column in (*self._data.values(), *self._meta.values()):
            check_files(column, where, strict=self._header.native)
        for key, column in self._data.items():
            if column.dtype.kind == "f" and column.row_bytes <= CHECKED_ROW_BYTES:
                check_finite(key, column.read(0, self._rows), self._ends_array, where)
        self._values = {name: self._read_meta(name) for name in META}

    @classmethod
    def create(
        cls,
        path: Location,
        spec: Spec,
        *,
        task: Mapping[str, Any] | None = None,
        extra: Mapping[str, tuple[int, ...]] | None = None,
        origin: Mapping[str, Any] | None = None,
        action_dtype: Literal["float32", "float64"] = "float32",
        zarr_format: Literal[2, 3] = 2,
        overwrite: bool = False,
    ) -> EpisodeStore:
        """A new, empty store at a local path, an fsspec URL or in a zarr store.

        Args:
            extra: further float64 columns and their row shapes.
            origin: what another format said about the data, JSON-ready.

        Raises:
            DataError: something is there already, two columns share a name, or the disk is full.
        """
        store, where = open_location(path, read_only=False), str(path)
        extra = dict(extra or {})
        for name in extra:
            if name == "action" or name in spec.observations:
                raise DataError(f"{where}: extra column {name!r} is also an observation or the action.")
        is_group = any(get(store, key) is not None for key in (".zgroup", "zarr.json"))
        if list_dir(store, "") and not (overwrite and is_group):
            hint = "Pass overwrite=True to replace it" if is_group else "It is not a zarr group"
            raise DataError(f"{where} exists already. {hint}, or choose another path.")
        columns = {
            key: (o.shape, o.dtype, o.kind) for key, o in spec.observations.items() if o.kind != "text"
        }
        columns["action"] = ((spec.action.size,), action_dtype, "state")
        columns |= {key: (tuple(shape), "float64", "state") for key, shape in extra.items()}
        header = Header(spec=spec, task=dict(task) if task else None, extra=extra, origin=origin or {})
        try:
            group = zarr.create_group(store, zarr_format=zarr_format, overwrite=overwrite)
            put(store, [header.write(zarr_format)])
            for key, (shape, dtype, kind) in columns.items():
                Column.create(group, f"data/{key}", where, shape=shape, dtype=dtype, kind=kind)
            for name, dtype in META.items():
                Column.create(group, f"meta/{name}", where, shape=(), dtype=dtype, kind="meta")
            Column.create(group, ENDS, where, shape=(), dtype="int64", kind="meta")
        except OSError as error:
            raise DataError(f"Creating {where} failed: {error}.") from error
        return cls(store, where, writable=True, control_hz=None)

    @classmethod
    def open(
        cls, path: Location, mode: Literal["r", "a"] = "r", *, control_hz: float | None = None
    ) -> EpisodeStore:
        """An existing store, checked: structure, chunk files, and finite numbers in low-dimensional keys.

        A Diffusion Policy zarr opens too, read-only; its spec is inferred from the arrays. Mode "a" also
        cuts what an unfinished writer left; both modes tell it in `dropped` and a warning.

        Args:
            control_hz: the rate of a store that does not record its own; 10 Hz and a warning otherwise.

        Raises:
            DataError: names the array, the episode and row, or the file.
        """
        if mode not in ("r", "a"):
            raise DataError(unknown("mode", mode, ("r", "a")))
        store = open_location(path, read_only=mode == "r")
        if isinstance(store, LocalStore) and not store.root.is_dir():
            is_file = "is a file, not a zarr directory; scripts/convert.py imports HDF5 files"
            raise DataError(f"{path} {is_file if store.root.exists() else 'does not exist'}.")
        return cls(store, str(path), writable=mode == "a", control_hz=control_hz)

    @classmethod
    def from_arrays(
        cls,
        path: Location,
        episodes: Sequence[Mapping[str, np.ndarray]],
        *,
        control_hz: float,
        action: ActionSpec | None = None,
        overwrite: bool = False,
    ) -> EpisodeStore:
        """A store from NumPy arrays: each episode is ``{key: [T, ...], "action": [T, Da]}``.

        uint8 ``[T, H, W, C]`` are images, everything else becomes float32.
        """
        if not episodes or "action" not in episodes[0]:
            raise DataError(f"{path}: give at least one episode, each with an 'action'.")
        observations = {key: np.asarray(value) for key, value in episodes[0].items() if key != "action"}
        first = np.asarray(episodes[0]["action"])
        if first.ndim != 2:
            raise DataError(f"{path}: episode 0: 'action' has shape {list(first.shape)}, wanted [T, Da].")
        spec = Spec.from_arrays(observations, first, control_hz=control_hz)
        if action is not None:
            spec = Spec(observations=spec.observations, action=action, control_hz=control_hz)
        store = cls.create(path, spec, overwrite=overwrite)
        for episode in episodes:
            arrays = {key: np.asarray(value) for key, value in episode.items()}
            store.append({k: v if v.dtype == np.uint8 else v.astype(np.float32) for k, v in arrays.items()})
        return store

    def append(
        self,
        arrays: Mapping[str, np.ndarray],
        *,
        seed: int | None = None,
        success: bool | None = None,
        instruction: str = "",
    ) -> None:
        """Commit one episode: ``{key: [T, ...], "action": [T, Da]}`` with every extra column.

        Raises:
            DataError: the episode does not fit (nothing is written), or writing failed; the message says
                how many episodes are committed. The store can be used on after either.
        """
        if not self._writable:
            raise DataError(f"{self.where} is open for reading; open it with mode='a' to append.")
        checked = check_episode(arrays, self._data, f"{self.where}: episode {len(self)}")
        header = self._header.with_instruction(instruction)
        try:
            if header is not self._header:
                put(self._store, [header.write(self._format)])
                self._header = header
            entry = {
                "seed": UNKNOWN if seed is None else seed,
                "success": UNKNOWN if success is None else int(success),
                "instruction": header.instructions.index(instruction),
                "checksum": checksum(checked),
            }
            meta = {name: np.asarray([value], META[name]) for name, value in entry.items()}
            length = len(checked["action"])
            end = np.asarray([self._rows + length], np.int64)
            data_writes = [self._data[key].writes(rows) for key, rows in checked.items()]
            meta_writes = [self._meta[name].writes(rows) for name, rows in meta.items()]
            chunks, metadata = self._ends.writes(end)
            put(self._store, [write for chunk_writes, _ in data_writes for write in chunk_writes])
            put(self._store, [write for _, write in data_writes])
            put(self._store, [write for chunk_writes, _ in meta_writes for write in chunk_writes])
            put(self._store, [write for _, write in meta_writes])
            put(self._store, chunks)
            put(self._store, [metadata])
        except OSError as error:
            raise DataError(
                f"Writing episode {len(self)} of {self.where} failed: {error}. "
                f"{len(self)} episodes ({self._rows} steps) are committed and intact."
            ) from error
        for key, rows in checked.items():
            self._data[key].advance(rows)
        for name, rows in meta.items():
            self._meta[name].advance(rows)
            self._values[name] = np.append(self._values[name], rows)
        self._ends.advance(end)
        self._ends_array = np.append(self._ends_array, end)

    def __len__(self) -> int:
        """Committed episodes."""
        return len(self._ends_array)

    @property
    def spec(self) -> Spec:
        """What the observations and the action are."""
        return self._header.spec

    @property
    def task(self) -> dict[str, Any] | None:
        """The task the episodes were collected on, as `Task.to_dict` gave it."""
        return self._header.task

    @property
    def origin(self) -> dict[str, Any]:
        """What the file these episodes were imported from said about itself."""
        return dict(self._header.origin)

    @property
    def extra(self) -> dict[str, tuple[int, ...]]:
        """Columns beside observations and action (reward, simulator state, ...) and their row shapes."""
        known = {"action", *self.spec.observations}
        return {key: column.shape for key, column in self._data.items() if key not in known}

    @property
    def keys(self) -> list[str]:
        """Every array under ``data/``: observations, action, extra columns."""
        return list(self._data)

    @property
    def episode_ends(self) -> np.ndarray:
        """int64 [E], exclusive cumulative ends."""
        return self._ends_array.copy()

    @property
    def lengths(self) -> np.ndarray:
        """int64 [E], steps of each episode."""
        return np.diff(self._ends_array, prepend=0)

    @property
    def seeds(self) -> np.ndarray:
        """int64 [E]; -1 where unknown."""
        return self._values["seed"].copy()

    @property
    def successes(self) -> np.ndarray:
        """int8 [E]: 1, 0, or -1 where unknown."""
        return self._values["success"].copy()

    @property
    def instructions(self) -> list[str]:
        """One text an episode ("" where there is none)."""
        return [self._header.instructions[max(index, 0)] for index in self._values["instruction"]]

    def shape_of(self, key: str) -> tuple[tuple[int, ...], np.dtype]:
        """Shape of one row and dtype of a key."""
        column = self._column(key)
        return column.shape, column.dtype

    def read(self, key: str, rows: slice = slice(None)) -> np.ndarray:
        """Rows of a key as stored, counted over all episodes."""
        start, stop, step = rows.indices(self._rows)
        if step != 1:
            raise DataError(f"Rows are read with step 1, got {step}.")
        return self._column(key).read(start, max(start, stop))

    def episode(self, index: int) -> dict[str, np.ndarray]:
        """Every array of one episode, ``{key: [T, ...]}``."""
        if not -len(self) <= index < len(self):
            raise DataError(f"{self.where} has {len(self)} episodes; there is no episode {index}.")
        stop = int(self._ends_array[index])
        start = stop - int(self.lengths[index])
        return {key: self.read(key, slice(start, stop)) for key in self.keys}

    def fingerprint(self) -> str:
        """Hash of spec, episode ends and contents; the same for zarr formats 2 and 3."""
        sums = self._values["checksum"]
        for index in np.flatnonzero(sums == UNKNOWN):
            sums[index] = checksum(self.episode(int(index)))
        digest = hashlib.blake2b(json.dumps(self.spec.to_dict(), sort_keys=True).encode(), digest_size=16)
        digest.update(self._ends_array.tobytes() + sums.tobytes())
        return digest.hexdigest()

    @property
    def _rows(self) -> int:
        return int(self._ends_array[-1]) if len(self._ends_array) else 0

    def _column(self, key: str) -> Column:
        if key not in self._data:
            raise DataError(f"{self.where}: " + unknown("key", key, self._data))
        return self._data[key]

    def _read_ends(self) -> np.ndarray:
        check_files(self._ends, self.where, strict=True)
        ends = self._ends.read(0, self._ends.rows).astype(np.int64)
        lengths = np.diff(ends, prepend=0)
        if (lengths <= 0).any():
            bad = int(np.argmax(lengths <= 0))
            raise DataError(
                f"{self.where}: episode {bad} is empty or ends before it starts (end {ends[bad]})."
            )
        return ends

    def _read_meta(self, name: str) -> np.ndarray:
        values = np.full(len(self), UNKNOWN, META[name])
        if name in self._meta:
            column = self._meta[name]
            values[: column.rows] = column.read(0, column.rows)
        return values
