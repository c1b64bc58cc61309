"""Queued readers are bounded, count what is no message, and wake who waits."""

from __future__ import annotations

import threading

import pytest

from hardware.transport.topics import QueuedReader, TopicTimeout, ros_name
from robopolicy.errors import RobopolicyError


def queued(depth: int = 3) -> QueuedReader[int]:
    return QueuedReader("/numbers", int, depth, lambda: "Is it on?")


def test_the_newest_are_kept_in_order() -> None:
    reader = queued()
    assert reader.take() == []
    assert reader.latest() is None
    for i in range(5):
        reader.put(str(i))
    assert reader.wait(0.0)
    assert reader.take() == [2, 3, 4]
    assert not reader.wait(0.0)
    reader.put("7")
    assert reader.latest() == 7


def test_what_is_no_message_is_counted_and_takes_nothing_along() -> None:
    reader = queued(depth=4)
    for text in ("1", "one", None, "2"):
        reader.put(text)
    assert reader.take() == [1, 2]
    assert reader.rejected == 2
    refused: list[None] = []
    for text in ("x", "3", "y", "4"):
        reader.put(text)
    assert reader.newest(0.0, lambda value: value, lambda: refused.append(None)) == 4
    assert len(refused) == 2


def test_who_waits_is_woken() -> None:
    reader = queued()
    timer = threading.Timer(0.02, reader.put, ("5",))
    timer.start()
    assert reader.newest(30.0, lambda value: value, lambda: None) == 5
    timer.join()


def test_somebody_is_there_once_something_came_and_until_the_link_is_lost() -> None:
    reader = queued()
    with pytest.raises(TopicTimeout, match=r"publishes /numbers within 0.01 s \(0 of 1\)\. Is it on\?"):
        reader.wait_matched(0.01)
    reader.put("1")
    reader.wait_matched(0.0)
    reader.lost()
    assert reader.matched == 0
    assert reader.take() == [1]


def test_a_closed_reader_says_so() -> None:
    reader = queued()
    reader.close()
    for use in (reader.take, lambda: reader.wait(0.0), lambda: reader.matched):
        with pytest.raises(RobopolicyError, match="/numbers is closed"):
            use()


def test_dds_names_become_names_of_ros() -> None:
    assert ros_name("rt/joint_states") == "/joint_states"
    assert ros_name("rt/arm_controller/joint_trajectory") == "/arm_controller/joint_trajectory"
