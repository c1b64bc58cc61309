"""What a server says of its model in the handshake, under the key "robopolicy" of openpi's metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from robopolicy.registry import plain
from robopolicy.serving.wire import ProtocolError
from robopolicy.spec import Spec

__all__ = ["FIELDS", "KEY", "PROTOCOL", "TOKEN", "Announcement"]

KEY = "robopolicy"
"""Of everything that is ours in the handshake, in requests and in replies."""
PROTOCOL = 1
TOKEN = "ROBOPOLICY_TOKEN"
"""The environment variable that holds the token, for servers and clients."""
FIELDS = ("batch", "n", "noise", "seed")
"""What a request may hold besides the observation, where the server accepts it; "batch" is B observations."""


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """All of it is optional: an openpi server announces nothing of this, or only what it adds."""

    protocol: int = PROTOCOL
    version: str = ""
    """Of the weights; every reply repeats it."""
    accepts: tuple[str, ...] = ()
    """Of `FIELDS`."""
    noise_shape: tuple[int, int] | None = None
    """`(Tp, Dz)` of the noise behind one chunk."""
    noise_is_all: bool = False
    """Given noise, nothing is random: normal noise from the caller is as good as the server's own."""
    spec: Spec | None = None
    obs_horizon: int = 1
    pred_horizon: int | None = None
    action_horizon: int | None = None
    max_chunks: int | None = None
    """That a request may ask for, B * n."""
    max_bytes: int | None = None
    """Of a request."""
    codec: Mapping[str, Any] | None = None
    """Its configuration and statistics."""
    provenance: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.protocol != PROTOCOL:
            raise ProtocolError(
                f"The server speaks protocol {self.protocol}, this version {PROTOCOL}: "
                "install the same on both."
            )
        if unknown := sorted(set(self.accepts) - set(FIELDS)):
            raise ProtocolError(f"The server accepts unknown fields {unknown}. Valid: {', '.join(FIELDS)}.")
        if "noise" in self.accepts and self.noise_shape is None:
            raise ProtocolError("The server accepts noise but announces no noise_shape.")

    def to_dict(self) -> dict[str, Any]:
        """What is said, as it goes over the wire."""
        said = {f.name: getattr(self, f.name) for f in fields(self)}
        said["spec"] = None if self.spec is None else self.spec.to_dict()
        arrays = {name: said.pop(name) for name in ("codec", "provenance")}
        return {key: value for key, value in {**plain(said), **arrays}.items() if value is not None}

    @classmethod
    def from_metadata(cls, metadata: Any) -> Announcement:
        """What a handshake says; keys of later versions are passed over.

        Raises:
            ProtocolError: it cannot be understood.
        """
        said = metadata.get(KEY, {}) if isinstance(metadata, dict) else None
        if not isinstance(said, dict):
            raise ProtocolError(f"A handshake is a map, with a map under {KEY!r} if any.")
        known = {key: value for key, value in said.items() if key in {f.name for f in fields(cls)}}
        try:
            for key in ("accepts", "noise_shape"):
                if key in known:
                    known[key] = tuple(known[key])
            if "spec" in known:
                known["spec"] = Spec.from_dict(known["spec"])
            return cls(**known)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ProtocolError(f"The server's handshake cannot be understood: {error}.") from error
