"""A base policy to refine that needs no training: it goes to the wrong place, and noise moves it about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robopolicy.codecs import Codec, CodecConfig
from robopolicy.policies.policy import Generation, Policy, Provenance, Request
from robopolicy.registry import build, register
from robopolicy.rollout import PolicyActor, run_episodes
from robopolicy.seeding import episode_seeds
from robopolicy.spec import Spec
from robopolicy.task import Task
from robopolicy.vector import LaneVectorEnv
from tests.toy_env import toy_spec, toy_task

SPEED = 0.2
TASK = toy_task(horizon=12, success_hold=0, noise=0.2, env={"speed": SPEED, "reach": 0.08})


@dataclass(frozen=True, kw_only=True)
class AstrayConfig:
    bias: float = 0.15
    """How far to the right of the goal it goes."""
    spread: float = 0.5
    """Full actions by which a unit of noise moves each action."""
    action_horizon: int = 4


@register("policy", "test_astray")
class Astray(Policy):
    """Straight to a point beside the goal."""

    capabilities = frozenset({"noise"})

    def __init__(self, config: AstrayConfig, *, spec: Spec, codec: Codec) -> None:
        horizon = config.action_horizon
        super().__init__(spec, codec, obs_horizon=1, pred_horizon=horizon, action_horizon=horizon)
        self.config = config
        self.bias = torch.nn.Parameter(torch.tensor([config.bias, 0.0]))

    def generate(self, observation: dict[str, Tensor], request: Request) -> Generation:
        n = request.noise.shape[1]
        gap = (observation["goal"] + self.bias - observation["position"])[:, 0].repeat_interleave(n, 0)
        code = []
        for drawn in request.noise.flatten(0, 1).unbind(1):
            code.append((gap / SPEED).clamp(-1, 1))
            gap = gap - SPEED * code[-1]
            code[-1] = code[-1] + self.config.spread * drawn
        return Generation(code=torch.stack(code, 1))


@register("policy", "test_mute")
class Mute(Astray):
    """The same, without a word about noise."""

    capabilities = frozenset()


def astray(name: str = "test_astray", task: Task = TASK, **changes: Any) -> Policy:
    """One of the two."""
    codec = Codec(CodecConfig(observation="identity", action="identity"), toy_spec())
    policy: Policy = build("policy", {"name": name, **changes}, spec=toy_spec(), codec=codec)
    policy.provenance = Provenance(task=task, used_seeds=(1, 2, 3))
    return policy.eval()


def success(policy: Policy, task: Task = TASK, episodes: int = 60) -> float:
    """Share of episodes that succeed."""
    envs = LaneVectorEnv(task, 20, chunk=4)
    seeds = episode_seeds("select", episodes)
    done = [episode.success for episode in run_episodes(envs, PolicyActor(policy), seeds)]
    envs.close()
    return sum(done) / len(done)


LEARNER = {
    "hidden": [64, 64],
    "layer_norm": True,
    "batch_size": 128,
    "learning_rate": 1e-3,
    "initial_temperature": 0.01,
}
"""Small and quick."""


def refiner(method: str, policy: Policy, *, lanes: int = 16, seed: int = 0, **config: Any) -> Any:
    """A method on the toy task, in episodes that end at success."""
    config = {"convention": {"terminate": True}, "gamma": 0.95, "warmup": 500, "learner": LEARNER, **config}
    hold = 0 if config["convention"].get("terminate") else -1
    envs = LaneVectorEnv(policy.provenance.task or TASK, lanes, chunk=4, success_hold=hold)
    return build("method", {"name": method, **config}, policy=policy, envs=envs, seed=seed)


def practise(method: Any, steps: int) -> list[dict[str, float]]:
    """Advance to this many environment steps."""
    rows = []
    while method.env_steps < steps:
        rows.append(method.advance())
    return rows


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As they would come back from a file."""
    return {name: value.detach().clone() for name, value in tensors.items()}
