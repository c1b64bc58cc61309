"""What tests of policies share: a small spec, observations, and the simplest multimodal task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from robopolicy.codecs import Codec, CodecConfig
from robopolicy.data.windows import Batch
from robopolicy.evaluation.two_modes import learn
from robopolicy.policies.policy import Policy
from robopolicy.registry import build
from robopolicy.spec import ActionSpec, ObservationSpec, Spec

SPEC = Spec(
    observations={"state": ObservationSpec(shape=(3,)), "goal/state": ObservationSpec(shape=(3,))},
    action=ActionSpec(names=("x", "y"), low=(-1.0, -1.0), high=(1.0, 1.0)),
    control_hz=10,
)
HORIZONS = {"pred_horizon": 8, "action_horizon": 4}
NETWORK = {"name": "mlp", "width": 64, "blocks": 2, "embedding": 16}


def make(name: str, *, spec: Spec = SPEC, **settings: Any) -> Policy:
    """A small policy for `spec`, the same at every call."""
    torch.manual_seed(0)
    config = {"name": name, **HORIZONS, **settings}
    policy = build("policy", config, spec=spec, codec=Codec(CodecConfig(), spec))
    assert isinstance(policy, Policy)
    return policy


def observation(batch: int, seed: int = 0, spec: Spec = SPEC) -> dict[str, np.ndarray]:
    """Random histories `[B, 2, ...]`."""
    rng = np.random.default_rng(seed)
    return {k: rng.normal(size=(batch, 2, *o.shape)).astype(np.float32) for k, o in spec.observations.items()}


def generators(*seeds: int) -> list[torch.Generator]:
    """One for each row."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def two_modes(batch: int, generator: torch.Generator, seen: Mapping[str, torch.Tensor]) -> Batch:
    """From the same observation go left or right, never straight."""
    side = torch.where(torch.rand(batch, 1, 1, generator=generator) < 0.5, -1.0, 1.0)
    return Batch(observation=dict(seen), action=side.expand(batch, 8, 2))


def learn_two_modes(policy: Policy, updates: int = 400, rate: float = 2e-3) -> np.ndarray:
    """Train on `two_modes` and return 256 sampled chunks `[256, 8, 2]`."""
    generator = torch.Generator().manual_seed(0)
    learn(policy, generator, steps=updates, batch=256, rate=rate)
    shapes = policy.spec.observations
    seen = {key: torch.zeros(256, policy.obs_horizon, *o.shape) for key, o in shapes.items()}
    actions: torch.Tensor = policy.sample(seen, generator=generator).actions
    return actions[:, 0].numpy()


def check_two_modes(sampled: np.ndarray, coherent: float = 0.97) -> None:
    """Both modes, each precise, coherent over (this share of) the chunk, and nothing between them."""
    assert np.abs(np.abs(sampled) - 1).mean() < 0.15
    assert 0.3 < (sampled[:, 0, 0] > 0).mean() < 0.7
    assert (np.sign(sampled) == np.sign(sampled[:, :1, :1])).mean() > coherent
