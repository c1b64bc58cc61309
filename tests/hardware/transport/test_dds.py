"""Endpoints find each other on the loopback, drop what is malformed, and say what is wrong."""

from __future__ import annotations

import contextlib
import struct
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")

from cyclonedds.core import DDSException

from hardware.extras import MissingExtra, require
from hardware.transport.dds import LATCHED, STATE, Network, Participant, Quality
from hardware.transport.idl_ros import Bool, Image, JointState
from hardware.transport.idl_unitree import LowCmd, LowCmdIdl
from hardware.transport.topics import TopicTimeout
from robopolicy.errors import ConfigError, RobopolicyError
from tests.hardware.wire import free_network


class Garbled(LowCmd):
    """Announced as LowCmd; sends whatever bytes it is given."""

    data = b""

    def serialize(self, *_: object, **__: object) -> bytes:
        return self.data


class GarbledState(JointState):
    data = b""

    def serialize(self, *_: object, **__: object) -> bytes:
        return self.data


Garbled.__idl__ = LowCmdIdl.__idl__
GarbledState.__idl__ = JointState.__idl__


def test_messages_arrive_in_order_and_once() -> None:
    with Participant(free_network()) as participant:
        reader = participant.reader("rt/joint_states", JointState)
        writer = participant.writer("rt/joint_states", JointState)
        writer.wait_matched(5.0)
        reader.wait_matched(5.0)
        assert reader.latest() is None
        assert not reader.wait(0.0)
        for i in range(5):
            writer.write(JointState(name=["a"], position=[float(i)]))
        assert reader.wait(5.0)
        taken = reader.take()
        assert [m.position for m in taken] == [[float(i)] for i in range(len(taken))]
        assert taken
        assert reader.rejected == 0


def test_a_state_topic_keeps_the_newest() -> None:
    with Participant(free_network()) as participant:
        reader = participant.reader("rt/stop", Bool, STATE)
        writer = participant.writer("rt/stop", Bool)
        writer.wait_matched(5.0)
        for value in (True, True, False):
            writer.write(Bool(value))
        assert reader.wait(5.0)
        newest = reader.latest()
        assert newest is not None
        assert newest.data is False
        assert reader.latest() is None


def test_a_latched_topic_serves_late_joiners() -> None:
    with Participant(free_network()) as participant:
        participant.writer("rt/stop", Bool, LATCHED).write(Bool(True))
        reader = participant.reader("rt/stop", Bool, LATCHED)
        assert reader.wait(5.0)
        assert reader.take() == [Bool(True)]


def test_a_departing_writer_is_no_message() -> None:
    with Participant(free_network()) as participant:
        reader = participant.reader("rt/stop", Bool)
        other = Participant(participant.network)
        writer = other.writer("rt/stop", Bool)
        writer.wait_matched(5.0)
        writer.write(Bool(True))
        assert reader.wait(5.0)
        assert reader.take() == [Bool(True)]
        other.close()
        assert reader.wait(5.0)
        assert reader.take() == []
        assert reader.rejected == 0
        assert reader.matched == 0
        with pytest.raises(RobopolicyError, match="rt/stop is closed"):
            writer.write(Bool(True))


def test_messages_that_fail_their_checksum_are_counted_and_dropped() -> None:
    rng = np.random.default_rng(0)
    with Participant(free_network()) as participant:
        reader = participant.reader("rt/lowcmd", LowCmd, Quality(depth=400))
        other = Participant(participant.network)
        writer = other.writer("rt/lowcmd", Garbled, Quality(depth=400))
        writer.wait_matched(5.0)
        good = LowCmd()
        good.motors["q"] = 0.25
        flipped = bytearray(good.serialize())
        flipped[100] ^= 4
        broken = [bytes(flipped), *(b"\0\1\0\0" + rng.bytes(1000) for _ in range(50))]
        for data in [*broken, good.serialize()]:
            Garbled.data = data
            writer.write(Garbled())
        received: list[LowCmd] = []
        while not received:
            assert reader.wait(5.0)
            received = reader.take()
        assert [m.motors["q"][0] for m in received] == [0.25]
        assert reader.rejected == len(broken)


def test_random_bytes_never_escape() -> None:
    """Whether Cyclone refuses them or our decoder does, reading goes on and the next message arrives."""
    rng = np.random.default_rng(1)
    with Participant(free_network()) as participant:
        reader = participant.reader("rt/joint_states", JointState, Quality(depth=400))
        other = Participant(participant.network)
        writer = other.writer("rt/joint_states", GarbledState, Quality(depth=400))
        writer.wait_matched(5.0)
        whole = JointState(name=["a", "b"], position=[1.0, 2.0]).serialize()
        garbage = [b"\0\1\0\0" + rng.bytes(4 * i) for i in range(1, 60)]
        garbage += [whole[:i] for i in range(4, len(whole), 4)]
        for i in range(4, len(whole)):
            garbage.append(whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :])
        for data in garbage:
            GarbledState.data = data
            with contextlib.suppress(DDSException):  # Cyclone checks what it sends
                writer.write(GarbledState())
        GarbledState.data = JointState(name=["last"]).serialize()
        writer.write(GarbledState())
        last = None
        while last is None or last.name != ["last"]:
            assert reader.wait(5.0)
            last = reader.latest() or last


def test_a_sample_that_cannot_be_decoded_does_not_take_its_neighbours_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decode = JointState.deserialize

    def fragile(data: bytes, *args: Any, **kwargs: Any) -> JointState:
        if b"bad" in data:
            raise struct.error("unpack requires a buffer of 8 bytes")
        return decode(data, *args, **kwargs)

    monkeypatch.setattr(JointState, "deserialize", fragile)
    with Participant(free_network()) as participant:
        reader = participant.reader("rt/joint_states", JointState)
        writer = participant.writer("rt/joint_states", JointState)
        writer.wait_matched(5.0)
        for name in ("one", "bad", "two"):
            writer.write(JointState(name=[name]))
        names: list[str] = []
        while "two" not in names:
            assert reader.wait(5.0)
            names += [m.name[0] for m in reader.take()]
        assert names == ["one", "two"]
        assert reader.rejected == 1


def test_nobody_there_is_said_with_the_topic() -> None:
    with Participant(free_network()) as participant:
        writer = participant.writer("rt/nobody", Bool)
        with pytest.raises(TopicTimeout, match=r"subscribes to rt/nobody within 0\.05 s \(0 of 1\)"):
            writer.wait_matched(0.05)
        with pytest.raises(TopicTimeout, match="publishes rt/nothing"):
            participant.reader("rt/nothing", Bool).wait_matched(0.05)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"0\.\.232, got 233"):
        Network(domain=233)
    with pytest.raises(ConfigError, match="peer"):
        Network(peers=())
    with pytest.raises(ConfigError, match="depth=0"):
        Quality(depth=0)
    network = free_network()
    with Participant(network) as participant:
        participant.writer("rt/one", Bool)
        with pytest.raises(ConfigError, match="carries Bool already, not Image"):
            participant.reader("rt/one", Image)
        with pytest.raises(ConfigError, match=f"domain {network.domain} already"):
            Participant(Network(domain=network.domain, peers=("127.0.0.2",)))
    with pytest.raises(RobopolicyError, match="closed"):
        participant.writer("rt/one", Bool)


def test_nothing_leaves_the_loopback() -> None:
    xml = Network(domain=3).xml
    assert 'name="lo"' in xml
    assert "<AllowMulticast>false" in xml
    assert '<Peer Address="127.0.0.1"/>' in xml
    assert "&quot;" in Network(interface='a"b').xml or "'a\"b'" in Network(interface='a"b').xml


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cyclonedds", None)
    with pytest.raises(MissingExtra, match=r"Talking needs cyclonedds.*robopolicy\[ros\]"):
        require("cyclonedds", extra="ros", purpose="Talking")
    assert require("sys", extra="ros", purpose="") is sys
