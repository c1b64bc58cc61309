"""The simplest multimodal task: from one observation go left or right, never straight."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from robopolicy.codecs import Codec, CodecConfig
from robopolicy.data.windows import Batch
from robopolicy.evaluation import two_modes
from robopolicy.policies.policy import Policy
from robopolicy.registry import build
from robopolicy.spec import ActionSpec, ObservationSpec, Spec

SPEC = Spec(
    observations={
        "position": ObservationSpec(shape=(3,), group="proprioception"),
        "goal": ObservationSpec(shape=(2,), group="object"),
    },
    action=ActionSpec(names=("x", "y"), low=(-1.0, -1.0), high=(1.0, 1.0)),
    control_hz=10,
)
SMALL = {"name": "mlp", "width": 64, "blocks": 2, "embedding": 16}
HORIZONS = {"obs_horizon": 2, "pred_horizon": 8, "action_horizon": 4}


def make(name: str, spec: Spec = SPEC, **changes: Any) -> Policy:
    """A small policy for `SPEC`, the same whenever it is made."""
    torch.manual_seed(0)
    config = {"name": name, "network": SMALL, **HORIZONS, **changes}
    policy = build("policy", config, spec=spec, codec=Codec(CodecConfig(), spec))
    assert isinstance(policy, Policy)
    return policy


def observe(batch: int, seed: int = 0, spec: Spec = SPEC) -> dict[str, np.ndarray]:
    """Random observations `[B, 2, ...]`."""
    rng = np.random.default_rng(seed)
    return {k: rng.normal(size=(batch, 2, *o.shape)).astype(np.float32) for k, o in spec.observations.items()}


def random_batch(count: int, seed: int = 0) -> Batch:
    """Random chunks for random observations."""
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        observation={k: torch.as_tensor(v) for k, v in observe(count, seed).items()},
        action=torch.rand(count, 8, 2, generator=generator) * 2 - 1,
    )


def learn(policy: Policy, *, steps: int, count: int = 128, rate: float = 2e-3) -> Tensor:
    """Train on chunks that are 1 or -1 throughout, and return 256 sampled ones `[256, 8, 2]`."""
    generator = torch.Generator().manual_seed(0)
    two_modes.learn(policy, generator, steps=steps, batch=count, rate=rate)
    seen = {key: torch.zeros(256, *value.shape[1:]) for key, value in observe(1).items()}
    sampled: Tensor = policy.sample(seen, generator=generator).actions[:, 0]
    return sampled


def assert_two_modes(sampled: Tensor) -> None:
    """Every chunk is near 1 or -1, each about half the time."""
    assert float((sampled.abs() - 1).abs().mean()) < 0.15
    assert 0.25 < float((sampled[:, 0, 0] > 0).float().mean()) < 0.75
    assert float((sampled.sign() == sampled[:, :1, :1].sign()).float().mean()) > 0.97
