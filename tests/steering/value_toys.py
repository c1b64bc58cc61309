"""Critics of the toy task that need no training: what they like is written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robopolicy.codecs import Codec, CodecConfig
from robopolicy.policies.actor_critic import ActorCriticPolicy, ActorCriticPolicyConfig
from robopolicy.rl.presets import ActorCriticConfig
from robopolicy.spec import Spec
from tests.rl.toy_base import SPEED
from tests.toy_env import toy_spec

Q = Callable[[Tensor, Tensor], Tensor]


def fitted(spec: Spec, seed: int, **config: Any) -> Codec:
    """A codec whose statistics are those of no other seed."""
    generator = torch.Generator().manual_seed(seed)
    codec = Codec(CodecConfig(**config), spec)
    rows: Mapping[str, Tensor] = {
        key: torch.randn(64, 1, *o.shape, generator=generator)
        for key, o in spec.observations.items()
        if o.kind == "state"
    }
    size = spec.action.size
    action = torch.rand(64, 4, size, generator=generator) * (1 + torch.rand(size, generator=generator)) - 1
    codec.fit(iter([(rows, action)]))
    return codec


def critic(
    q: Q | None = None, *, spec: Spec | None = None, codec: Codec | None = None, **config: Any
) -> ActorCriticPolicy:
    """Chunks of four actions by default; `q` of states and encoded chunks instead of a network."""
    torch.manual_seed(1)
    spec = spec or toy_spec()
    described = ActorCriticPolicyConfig(
        **{"action_horizon": 4, "learner": ActorCriticConfig(hidden=(16,)), **config}
    )
    made = ActorCriticPolicy(described, spec=spec, codec=codec or fitted(spec, 7)).eval()
    if q is not None:
        made.q = q  # type: ignore[method-assign, assignment]
    return made


def knowing() -> ActorCriticPolicy:
    """Likes chunks that end near the goal; sees and is told everything as it is."""
    codec = Codec(CodecConfig(observation="identity"), toy_spec())
    assert codec.action_bounds()[1].tolist() == [1, 1]

    def nearness(state: Tensor, encoded: Tensor) -> Tensor:
        goal, position = state[:, :2], state[:, 2:]
        return -(position + SPEED * encoded.unflatten(1, (-1, 2)).sum(1) - goal).norm(dim=-1)

    return critic(nearness, codec=codec)


def first_entry(state: Tensor, encoded: Tensor) -> Tensor:
    """Likes a large first number."""
    del state
    return encoded[:, 0]


def seen(batch: int, seed: int = 0, obs_horizon: int = 1) -> dict[str, np.ndarray]:
    """Random observations of the toy task."""
    rng = np.random.default_rng(seed)
    return {
        key: rng.uniform(-0.8, 0.8, (batch, obs_horizon, 2)).astype(np.float32)
        for key in ("position", "goal")
    }
