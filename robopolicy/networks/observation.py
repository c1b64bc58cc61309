"""From encoded observations to the condition vector."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from robopolicy.errors import ConfigError
from robopolicy.spec import Spec


class StateEncoder(nn.Module):
    """Concatenates the state observations of every step: `[B, To, sum of sizes]`."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        others = sorted(key for key, o in spec.observations.items() if o.kind != "state")
        if others:
            raise ConfigError(
                f"This policy reads states only, and {others} are not. Choose state observations with "
                "data.observations=[...]."
            )
        self.keys = sorted(spec.observations)
        self.size = sum(math.prod(spec.observations[key].shape) for key in self.keys)

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        """`[B, To, ...]` for each key to `[B, To, Dc]`."""
        return torch.cat([observation[key].flatten(2) for key in self.keys], -1)
