"""From a configuration to a server: what ``scripts/serve.py`` runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from robopolicy.device import choose_device
from robopolicy.errors import ConfigError
from robopolicy.serving.policy import MAX_CHUNKS, ServedPolicy
from robopolicy.serving.server import ServerConfig, serve_forever
from robopolicy.steering.steer import load_acting

__all__ = ["ServeConfig", "serve_checkpoint"]


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """The root of ``configs/serve.yaml``."""

    checkpoint: str
    sampler: Mapping[str, Any] | None = None
    """Instead of the one that the policy was trained with."""
    steer: Mapping[str, Any] | None = None
    """What steers the policy, such as values that choose among its chunks."""
    server: ServerConfig = field(default_factory=ServerConfig)
    max_chunks: int = MAX_CHUNKS
    """Made at once; a request may ask for no more."""
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.max_chunks < 1:
            raise ConfigError(f"serve needs max_chunks >= 1, got {self.max_chunks}.")


def serve_checkpoint(config: ServeConfig) -> None:
    """Serve a policy until interrupted.

    Raises:
        ConfigError: other computers could connect, and there is no token.
    """
    policy = load_acting(
        config.checkpoint, sampler=config.sampler, steer=config.steer, device=choose_device(config.device)
    )
    served = ServedPolicy(policy, max_chunks=config.max_chunks, max_bytes=config.server.max_bytes)
    serve_forever(served, config.server, name=config.checkpoint)
