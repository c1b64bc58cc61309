"""Which way messages take to a robot that runs ROS 2: DDS, or a bridge on the robot's side.

    join(route({"name": "rosbridge", "url": "ws://192.168.1.10:9090"}, Network()))

The settings need no package of any transport; joining does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hardware.transport.network import Network
from robopolicy.errors import ConfigError, unknown
from robopolicy.registry import parse

if TYPE_CHECKING:
    from hardware.transport.topics import Participant

__all__ = ["Rosbridge", "Route", "Zenoh", "join", "route"]


@dataclass(frozen=True, kw_only=True)
class Rosbridge:
    """A rosbridge server: JSON over a websocket."""

    url: str = "ws://127.0.0.1:9090"

    def __post_init__(self) -> None:
        if not self.url.startswith(("ws://", "wss://")):
            raise ConfigError(f"A rosbridge server is at ws://<host>:<port> or wss://..., got {self.url!r}.")


@dataclass(frozen=True, kw_only=True)
class Zenoh:
    """A zenoh-bridge-ros2dds, or a router it is connected to."""

    connect: tuple[str, ...] = ("tcp/127.0.0.1:7447",)
    """Where it listens; nobody is looked for by multicast."""
    namespace: str = ""
    """The bridge's own namespace setting: ``/bot1`` where ``/joint_states`` is ``bot1/joint_states``."""

    def __post_init__(self) -> None:
        if not self.connect or any(place.count("/") != 1 for place in self.connect):
            raise ConfigError(f"zenoh connects to tcp/<host>:<port>, one or more; got {list(self.connect)}.")
        if any(letter in self.namespace for letter in "*$#?"):
            raise ConfigError(f"A namespace has no wildcards, got {self.namespace!r}.")


Route = Network | Rosbridge | Zenoh
_BRIDGES: dict[str, type[Rosbridge | Zenoh]] = {"rosbridge": Rosbridge, "zenoh": Zenoh}


def route(transport: Mapping[str, Any], network: Network) -> Route:
    """What a robot's yaml says: the settings of its bridge, or for DDS the `network`.

    Args:
        transport: ``{"name": dds, rosbridge or zenoh, **settings}``.

    Raises:
        ConfigError: another name or setting; lists the valid ones.
    """
    values = dict(transport)
    name = values.pop("name", None)
    if name == "dds":
        if values:
            raise ConfigError(f"transport=dds has no settings, got {sorted(values)}; DDS has `network`.")
        return network
    if name not in _BRIDGES:
        raise ConfigError(unknown("transport", str(name), ["dds", *_BRIDGES]))
    return parse(_BRIDGES[name], values, where=f"transport={name}")


def join(way: Route) -> Participant:
    """Take part in a robot's topics.

    Raises:
        MissingExtra: the transport's package is not installed; names the extra.
    """
    if isinstance(way, Rosbridge):
        from hardware.transport.rosbridge import RosbridgeParticipant

        return RosbridgeParticipant(way)
    if isinstance(way, Zenoh):
        from hardware.transport.zenoh import ZenohParticipant

        return ZenohParticipant(way)
    from hardware.transport.dds import Participant as DdsParticipant

    return DdsParticipant(way)
