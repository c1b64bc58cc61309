"""Every way answers, and only answers are timed."""

from __future__ import annotations

import pytest

pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")
pytest.importorskip("websockets", reason="rosbridge is the extra robopolicy[rosbridge]")
pytest.importorskip("zenoh", reason="zenoh is the extra robopolicy[zenoh]")

from hardware.sim.transports import everything, measure
from hardware.transport.topics import TopicTimeout
from tests.hardware.wire import free_network, free_port


@pytest.mark.slow
def test_round_trips_are_measured_over_every_way() -> None:
    network = free_network()
    with everything(network.domain, (free_port(), free_port())) as transports:
        found = measure(network, transports, rounds=2, count=10)
    assert list(found) == ["dds", "rosbridge", "zenoh"]
    for values in found.values():
        assert values["sent"] == 20
        assert values["lost"] < 20
        assert 0 < values["round_trip_ms"]["p50"] <= values["round_trip_ms"]["p99"]


def test_a_way_that_leads_nowhere_is_said() -> None:
    url = f"ws://127.0.0.1:{free_port()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hardware.sim.transports._CONNECT_S", 0.05)
        with pytest.raises(TopicTimeout, match=url):
            measure(free_network(), {"x": {"name": "rosbridge", "url": url}}, rounds=1, count=1)
