from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from hardware.ring import Ring
from robopolicy.errors import RobopolicyError

DTYPE = np.dtype([("number", "<i8"), ("values", "<f8", (64,))])


def record(number: int) -> np.ndarray:
    result = np.zeros((), DTYPE)
    result["number"], result["values"] = number, number
    return result


def test_newest_wins_and_history_is_in_order(tmp_path: Path) -> None:
    ring = Ring.create(tmp_path / "ring", DTYPE, 4)
    reader = Ring.attach(tmp_path / "ring")
    assert reader.newest() is None
    assert reader.last(3) == []
    for number in range(10):
        ring.write(record(number))
    newest = reader.newest()
    assert newest is not None
    assert (newest[0], newest[1]["number"]) == (10, 9)
    assert reader.newest(after=10) is None
    assert [int(r["number"]) for r in reader.last(99)] == [7, 8, 9]


def test_a_copy_is_not_changed_by_later_writes(tmp_path: Path) -> None:
    ring = Ring.create(tmp_path / "ring", DTYPE, 2)
    ring.write(record(1))
    kept = ring.newest()
    for number in range(2, 9):
        ring.write(record(number))
    assert kept is not None
    assert kept[1]["values"][0] == 1


def _write_many(path: Path, count: int) -> None:
    ring = Ring.attach(path)
    for number in range(1, count + 1):
        ring.write(record(number))


def test_a_reader_never_sees_half_a_record(tmp_path: Path) -> None:
    path, count = tmp_path / "ring", 30_000
    reader = Ring.create(path, DTYPE, 2)
    writer = multiprocessing.get_context("fork").Process(target=_write_many, args=(path, count))
    writer.start()
    seen = last = 0
    while last < count:
        newest = reader.newest(after=last)
        if newest is None:
            continue
        last, value = newest
        assert value["number"] == last
        assert (value["values"] == last).all()
        seen += 1
    writer.join()
    assert seen > 10


def test_a_killed_writer_leaves_what_it_finished(tmp_path: Path) -> None:
    ring = Ring.create(tmp_path / "ring", DTYPE, 4)
    ring.write(record(1))
    ring._slots[1]["lock"] = 3  # died while writing the second
    newest = Ring.attach(tmp_path / "ring").newest()
    assert newest is not None
    assert newest[1]["number"] == 1


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(RobopolicyError, match="no ring"):
        Ring.attach(tmp_path / "none")
    with pytest.raises(RobopolicyError, match="at least 2 slots, got 1"):
        Ring.create(tmp_path / "ring", DTYPE, 1)
