"""Policies whose chunks depend on a condition that an encoder makes of the observations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from robopolicy.codecs import Codec
from robopolicy.policies.policy import Policy
from robopolicy.registry import build
from robopolicy.spec import Spec

__all__ = ["ConditionedPolicy"]


class ConditionedPolicy(Policy):
    """Makes the encoder of its config (a `ChunkConfig` with the field `encoder`)."""

    config: Any
    encoder: Any
    """Encoded observations to the condition `[B, To, Dc]`."""

    def __init__(self, config: Any, *, spec: Spec, codec: Codec) -> None:
        super().__init__(spec, codec, **config.horizons)
        self.config = config
        self.encoder = build("encoder", config.encoder, spec=spec)

    def condition(self, observation: Mapping[str, Tensor]) -> Tensor:
        """`[B, To, Dc]` from raw observations `[B, To, ...]`."""
        condition: Tensor = self.encoder(self.codec.encode_observation(observation))
        return condition

    def build_network(self) -> Any:
        """The network of the config (its field `network`), for chunks under the condition."""
        return build(
            "network",
            self.config.network,
            action_size=self.codec.action_size,
            horizon=self.pred_horizon,
            obs_horizon=self.obs_horizon,
            condition_size=self.encoder.size,
        )
