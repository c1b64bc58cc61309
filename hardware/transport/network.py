"""Where DDS looks for robots. Needs no DDS: robots' settings contain it."""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

from robopolicy.errors import ConfigError

__all__ = ["MAX_DOMAIN", "Network"]

MAX_DOMAIN = 232
_MAX_PARTICIPANTS = 32


@dataclass(frozen=True, kw_only=True)
class Network:
    """Where DDS looks for peers."""

    domain: int = 0
    """ROS_DOMAIN_ID; a Unitree robot uses 0, its simulators 1."""
    interface: str = "lo"
    """Name of the network interface, e.g. "lo" or "eth0"."""
    peers: tuple[str, ...] = ("127.0.0.1",)
    """Addresses asked for participants; with multicast they may stay empty."""
    multicast: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.domain <= MAX_DOMAIN:
            raise ConfigError(f"A DDS domain is 0..{MAX_DOMAIN}, got {self.domain}.")
        if not self.peers and not self.multicast:
            raise ConfigError("Without multicast, name at least one peer address.")

    @property
    def xml(self) -> str:
        """Cyclone DDS configuration."""
        multicast = "true" if self.multicast else "false"
        peers = "".join(f"<Peer Address={quoteattr(peer)}/>" for peer in self.peers)
        return (
            '<CycloneDDS><Domain Id="any"><General><Interfaces>'
            f"<NetworkInterface name={quoteattr(self.interface)} multicast={quoteattr(multicast)}/>"
            f"</Interfaces><AllowMulticast>{multicast}</AllowMulticast></General>"
            "<Discovery><ParticipantIndex>auto</ParticipantIndex>"
            f"<MaxAutoParticipantIndex>{_MAX_PARTICIPANTS}</MaxAutoParticipantIndex>"
            f"<Peers>{peers}</Peers></Discovery></Domain></CycloneDDS>"
        )
