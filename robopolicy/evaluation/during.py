"""Evaluations while training, on seeds kept for choosing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from robopolicy.evaluation.evaluate import evaluate
from robopolicy.rollout import PolicyActor
from robopolicy.seeding import episode_seeds
from robopolicy.vector import LaneVectorEnv

if TYPE_CHECKING:
    from robopolicy.learning.train import TrainConfig
    from robopolicy.policies.policy import Policy

__all__ = ["SelectionCheck"]


class SelectionCheck:
    """Success of a policy on selection seeds; its environments are made once and kept."""

    def __init__(self, config: TrainConfig) -> None:
        self.settings = config.evaluate
        self.seeds = episode_seeds("select", self.settings.episodes)
        self._envs: LaneVectorEnv | None = None

    def __call__(self, policy: Policy) -> Mapping[str, float]:
        """Success rates, for the log."""
        episodes, task = self.settings.episodes, policy.provenance.task
        assert task is not None
        if self._envs is None:
            lanes = min(self.settings.lanes, episodes)
            self._envs = LaneVectorEnv(task, lanes, workers=self.settings.workers)
        actor = PolicyActor(policy)
        measured = evaluate(actor, task, episodes=episodes, block="select", envs=self._envs, progress=False)
        return measured.metrics()
