"""A robot's yaml chooses the way to it; what it cannot mean is refused before anything is joined."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

from hardware.extras import MissingExtra
from hardware.robot import make_robot
from hardware.spec import RobotSpec
from hardware.transport.network import Network
from hardware.transport.route import Rosbridge, Zenoh, join, route
from robopolicy.errors import ConfigError

NETWORK = Network(domain=7)


def test_the_name_chooses() -> None:
    assert route({"name": "dds"}, NETWORK) is NETWORK
    assert route({"name": "rosbridge"}, NETWORK) == Rosbridge(url="ws://127.0.0.1:9090")
    assert route({"name": "rosbridge", "url": "wss://arm:1"}, NETWORK) == Rosbridge(url="wss://arm:1")
    settings = {"name": "zenoh", "connect": ["tcp/arm:7447"], "namespace": "/bot1"}
    assert route(settings, NETWORK) == Zenoh(connect=("tcp/arm:7447",), namespace="/bot1")


def test_what_the_page_says_is_valid() -> None:
    page = (Path(__file__).parents[3] / "docs/ros2.md").read_text()
    said = re.findall(r"`(driver\.transport: .*)`", page)
    ways = {type(route(yaml.safe_load(text)["driver.transport"], NETWORK)) for text in said}
    assert ways == {Rosbridge, Zenoh}


@pytest.mark.parametrize(
    ("transport", "message"),
    [
        ({"name": "mqtt"}, r"mqtt.*dds, rosbridge, zenoh"),
        ({"url": "ws://arm:9090"}, r"dds, rosbridge, zenoh"),
        ({"name": "dds", "domain": 3}, r"no settings, got \['domain'\]; DDS has `network`"),
        ({"name": "rosbridge", "port": 9090}, r"transport=rosbridge.*'port'.*url"),
        ({"name": "rosbridge", "url": "http://arm"}, r"ws://<host>:<port>.*'http://arm'"),
        ({"name": "zenoh", "connect": []}, r"tcp/<host>:<port>.*\[\]"),
        ({"name": "zenoh", "connect": ["arm:7447"]}, r"arm:7447"),
        ({"name": "zenoh", "namespace": "/*"}, "wildcards"),
    ],
)
def test_what_cannot_work_is_refused_by_the_driver(transport: dict[str, object], message: str) -> None:
    spec = RobotSpec.load("panda_sim")
    with pytest.raises(ConfigError, match=message):
        make_robot(spec.replace(driver={**spec.driver, "transport": transport}))


@pytest.mark.parametrize(
    ("way", "package", "extra"),
    [(Rosbridge(), "websockets", "rosbridge"), (Zenoh(), "zenoh", "zenoh")],
)
def test_a_missing_package_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, way: Rosbridge | Zenoh, package: str, extra: str
) -> None:
    pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")
    monkeypatch.delitem(sys.modules, f"hardware.transport.{extra}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"needs {package}.*robopolicy\[{extra}\]"):
        join(way)
