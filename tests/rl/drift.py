"""A method that needs no learning to tell runs apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from robopolicy.policies.policy import Policy
from robopolicy.registry import register
from robopolicy.rl.convention import ConventionConfig
from robopolicy.rl.refiner import Refiner
from robopolicy.seeding import derive
from robopolicy.vector import LaneVectorEnv


@dataclass(frozen=True, kw_only=True)
class DriftConfig:
    convention: ConventionConfig = field(default_factory=ConventionConfig)
    size: float = 0.01
    warmup: int = 2


@register("method", "test_drift")
class Drift(Refiner):
    """Practises, and moves the weights by what it saw: enough to tell runs apart."""

    def __init__(
        self, config: DriftConfig, *, policy: Policy, envs: LaneVectorEnv, seed: int, offset: int = 0
    ) -> None:
        super().__init__(policy, envs, convention=config.convention, seed=seed, offset=offset)
        self.config, self.iteration = config, 0

    @property
    def warming(self) -> bool:
        return self.iteration < self.config.warmup

    def advance(self) -> dict[str, float]:
        generator = torch.Generator().manual_seed(derive(self.seed, f"drift/{self.iteration}"))
        seen = self.practice.view.observation
        chunk = self.policy.sample(seen, generator=generator).actions[:, 0]
        experience = self.practice.step(chunk)
        with torch.no_grad():
            for parameter in self.policy.parameters():
                parameter.add_(self.config.size * float(experience.rewards.mean() + chunk.mean()))
        self.iteration += 1
        return {"seconds_env": 0.5, "loss": float(chunk.mean()), **self.practice.statistics()}

    def refined(self) -> Policy:
        return self.policy

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.policy.state_dict())

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self.policy.load_state_dict(dict(tensors))

    def state(self) -> dict[str, Any]:
        return {**super().state(), "iteration": self.iteration}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self.iteration = int(state["iteration"])
