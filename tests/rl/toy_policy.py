"""Untrained and quickly trained policies of the toy task, for refinement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from robopolicy.codecs import Codec, CodecConfig
from robopolicy.learning.checkpoint import save_checkpoint
from robopolicy.policies.policy import Policy, Provenance
from robopolicy.registry import build
from robopolicy.rollout import ExpertActor, run_episodes
from robopolicy.task import Task
from robopolicy.vector import LaneVectorEnv
from tests.toy_env import toy_spec, toy_task

NETWORK = {"name": "mlp", "width": 64, "blocks": 1, "embedding": 16}
HARD = {"speed": 0.2, "reach": 0.08}
"""A fast point and a small goal: clones of a noisy expert pass it by."""


def toy_policy(task: Task | None = None, **changes: Any) -> Policy:
    """A small policy of the toy task, untrained."""
    torch.manual_seed(0)
    config = {
        "name": "diffusion",
        "obs_horizon": 1,
        "pred_horizon": 4,
        "action_horizon": 4,
        "network": NETWORK,
        "sampler": {"name": "ddim", "steps": 5},
        **changes,
    }
    config = {key: value for key, value in config.items() if value is not None}
    codec = Codec(CodecConfig(observation="identity", action="identity"), toy_spec())
    policy = build("policy", config, spec=toy_spec(), codec=codec)
    assert isinstance(policy, Policy)
    policy.provenance = Provenance(task=task or toy_task(), used_seeds=(1, 2, 3))
    return policy.eval()


def cloned_policy(task: Task, *, episodes: int, updates: int, **changes: Any) -> Policy:
    """The policy after a few updates on a few demonstrations of the task's expert."""
    policy = toy_policy(task, **changes).train()
    envs = LaneVectorEnv(task, 10, chunk=16)
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    horizon = policy.pred_horizon
    for episode in run_episodes(envs, ExpertActor(), range(episodes), record=True):
        padded = np.concatenate([episode.data["action"], np.zeros((horizon, 2), np.float32)])
        rows += [
            (episode.data["position"][t], episode.data["goal"][t], padded[t : t + horizon])
            for t in range(episode.steps)
        ]
    envs.close()
    position, goal, action = (torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True))
    from robopolicy.data.windows import Batch

    optimizer = torch.optim.Adam(policy.parameters(), 2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(updates):
        index = torch.randint(len(action), (256,), generator=generator)
        observation = {"position": position[index, None], "goal": goal[index, None]}
        loss, _ = policy.loss(Batch(observation=observation, action=action[index], mask=None), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return policy.eval()


def saved(policy: Policy, directory: Path) -> Path:
    """A run directory that holds this policy."""
    save_checkpoint(directory / "checkpoints" / "step-00000001", policy)
    return directory
