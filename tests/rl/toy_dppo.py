"""DPPO on the toy task, small."""

from __future__ import annotations

from typing import Any

from robopolicy.policies.policy import Policy
from robopolicy.rl.dppo import DPPO, DPPOConfig
from robopolicy.vector import LaneVectorEnv
from tests.rl.toy_policy import toy_policy
from tests.toy_env import toy_task


def make(
    policy: Policy | None = None, lanes: int = 4, seed: int = 0, reach: float = 0.1, **changes: Any
) -> DPPO:
    """Chunks of four steps; any setting may be changed."""
    settings = {"denoising_steps": 6, "finetuned_steps": 3, "chunks": 5, "epochs": 2, "batch_size": 16}
    envs = LaneVectorEnv(toy_task(env={"reach": reach}), lanes, chunk=8, success_hold=-1)
    config = DPPOConfig(**{**settings, **changes})
    return DPPO(config, policy=policy or toy_policy(), envs=envs, seed=seed)
