"""A policy behind a server."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from robopolicy.policies.denoising import DenoisingPolicy
from robopolicy.policies.policy import Policy
from robopolicy.registry import plain, to_dict
from robopolicy.serving.announcement import FIELDS, Announcement
from robopolicy.serving.served import Chunks, Served
from robopolicy.serving.wire import MAX_BYTES

__all__ = ["MAX_CHUNKS", "ServedPolicy", "weights_version"]

MAX_CHUNKS = 1024


class ServedPolicy(Served):
    """Answers what the policy would, for the same noise or for a generator with the same seed.

    The handshake holds the spec, the codec and where the policy comes from, so a client knows of it what its
    checkpoint says, but for the weights.
    """

    def __init__(self, policy: Policy, *, max_chunks: int = MAX_CHUNKS, max_bytes: int = MAX_BYTES) -> None:
        noise = "noise" in policy.capabilities
        described = plain(policy.provenance)
        codec = policy.codec
        statistics = {name: value.cpu().numpy() for name, value in codec.state_dict().items()}
        super().__init__(
            Announcement(
                version=weights_version(policy),
                accepts=tuple(name for name in FIELDS if noise or name != "noise"),
                noise_shape=policy.noise_shape if noise else None,
                noise_is_all=noise and isinstance(policy, DenoisingPolicy) and not policy.sampler.draws,
                spec=policy.spec,
                obs_horizon=policy.obs_horizon,
                pred_horizon=policy.pred_horizon,
                action_horizon=policy.action_horizon,
                max_chunks=max_chunks,
                max_bytes=max_bytes,
                codec={"config": plain(codec.config), "statistics": statistics},
                provenance={**described, "used_seeds": np.array(described["used_seeds"], np.int64)},
            )
        )
        self.policy = policy

    def sample(
        self, observation: dict[str, Any], n: int, noise: np.ndarray | None, seeds: Sequence[int | None]
    ) -> Chunks:
        """`Policy.sample`, with a generator for every row."""
        generators = None if noise is not None else [self._generator(seed) for seed in seeds]
        sample = self.policy.sample(observation, n=n, noise=noise, generator=generators)
        arrays = {"actions": sample.actions, "log_prob": sample.log_prob, "energy": sample.energy}
        if noise is None:
            arrays["latent"] = sample.latent
        present = {key: value for key, value in arrays.items() if value is not None}
        return Chunks(present, sample.calls, {"infer_ms": 1e3 * sample.timing["sample"]})

    def _generator(self, seed: int | None) -> torch.Generator:
        generator = torch.Generator(self.policy.device)
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        return generator


def weights_version(policy: Policy) -> str:
    """Of all that decides what a policy does: configuration, statistics and weights."""
    described = {"policy": to_dict("policy", policy), "codec": policy.codec.config, "spec": policy.spec}
    digest = hashlib.sha256(json.dumps(plain(described), sort_keys=True).encode())
    for name, value in sorted(policy.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
