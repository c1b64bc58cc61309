"""Records shared between processes in a memory-mapped file: one writer, any readers, the newest wins.

Every slot has a counter that is odd while it is written (a seqlock): a reader copies, looks again, and tries
anew if the writer came by. The writer never waits. A file, unlike `multiprocessing.shared_memory`, may be
opened by processes that are not related, and survives one that is killed.

Python cannot order memory accesses: this relies on stores being seen in order, as x86 does.
"""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path

import numpy as np

from robopolicy.errors import RobopolicyError

__all__ = ["Ring"]

_HEADER = 4096
_MAGIC = b"RPRING1\n"


class Ring:
    """Slots of one structured dtype: `create` in one process, `attach` in others."""

    def __init__(self, path: Path, dtype: np.dtype, slots: int) -> None:
        self.path, self.dtype, self.slots = path, dtype, slots
        slot = np.dtype([("lock", "<i8"), ("value", dtype)], align=True)
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _HEADER + slots * slot.itemsize)
        self._written = np.frombuffer(self._memory, "<i8", 1, offset=_HEADER - 8)
        self._slots = np.frombuffer(self._memory, slot, slots, offset=_HEADER)

    @classmethod
    def create(cls, path: Path, dtype: np.dtype, slots: int = 64) -> Ring:
        """A new, empty ring; replaces what is at `path`.

        Raises:
            RobopolicyError: fewer than two slots, or a dtype whose description does not fit.
        """
        if slots < 2:
            raise RobopolicyError(f"A ring needs at least 2 slots, got {slots}.")
        description = json.dumps({"slots": slots, "dtype": dtype.descr}).encode()
        if len(description) > _HEADER - 64:
            raise RobopolicyError(f"The dtype of {path} has too many fields.")
        slot = np.dtype([("lock", "<i8"), ("value", dtype)], align=True)
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            file.write(_MAGIC + description)
            file.truncate(_HEADER + slots * slot.itemsize)
        os.replace(partial, path)
        return cls(path, dtype, slots)

    @classmethod
    def attach(cls, path: Path) -> Ring:
        """Open a ring that another process created.

        Raises:
            RobopolicyError: there is none at `path`.
        """
        header = path.read_bytes()[:_HEADER] if path.is_file() else b""
        if not header.startswith(_MAGIC):
            raise RobopolicyError(f"There is no ring at {path}.")
        found = json.loads(header[len(_MAGIC) : -8].rstrip(b"\0"))
        fields = [tuple(tuple(x) if isinstance(x, list) else x for x in entry) for entry in found["dtype"]]
        return cls(path, np.dtype(fields), found["slots"])

    def write(self, record: np.ndarray) -> None:
        """Publish a record (`np.zeros((), dtype)` filled in)."""
        count = int(self._written[0])
        slot = self._slots[count % self.slots]
        slot["lock"] = 2 * count + 1
        slot["value"] = record
        slot["lock"] = 2 * count + 2
        self._written[0] = count + 1

    @property
    def written(self) -> int:
        """How many records were ever written."""
        return int(self._written[0])

    def newest(self, after: int = 0) -> tuple[int, np.void] | None:
        """The newest record and its number (from 1), a copy; None if none is newer than `after`."""
        while (count := self.written) > after:
            record = self._copy(count - 1)
            if record is not None:
                return count, record
        return None

    def last(self, count: int) -> list[np.void]:
        """Up to `count` newest records that are still intact, oldest first."""
        written = self.written
        # The slot that is written next is left out: it may be overwritten meanwhile.
        first = max(0, written - min(count, self.slots - 1))
        copies = (self._copy(index) for index in range(first, written))
        return [record for record in copies if record is not None]

    def _copy(self, index: int) -> np.void | None:
        slot = self._slots[index % self.slots]
        wanted = 2 * index + 2
        if slot["lock"] != wanted:
            return None
        record: np.void = slot["value"].copy()
        return record if slot["lock"] == wanted else None
