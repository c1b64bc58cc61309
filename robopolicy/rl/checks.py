"""Evaluations of a policy under refinement: on selection seeds, and in imagination beside them."""

from __future__ import annotations

from dataclasses import dataclass

from robopolicy.errors import ConfigError
from robopolicy.evaluation.evaluate import Evaluation, evaluate
from robopolicy.policies.policy import Policy
from robopolicy.rollout import PolicyActor
from robopolicy.task import Task
from robopolicy.vector import LaneVectorEnv
from robopolicy.world.imagined import ImaginedVectorEnv

__all__ = ["CheckConfig", "Checks"]


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Evaluations on selection seeds, at the start, every so often, and at the end."""

    every: int = 50_000
    """Environment steps between two."""
    episodes: int = 50
    lanes: int = 10
    workers: int = 2
    max_gap: float = 0.4
    """A run in imagination stops where success there exceeds the real one by more, twice in a row."""

    def __post_init__(self) -> None:
        if min(self.every, self.episodes, self.lanes) < 1 or self.workers < 0:
            raise ConfigError("refine: evaluate needs every, episodes, lanes >= 1 and workers >= 0.")
        if not 0 < self.max_gap <= 1:
            raise ConfigError(f"refine: evaluate.max_gap must be in (0, 1], got {self.max_gap}.")


class Checks:
    """Keeps the environments of all evaluations of one run."""

    def __init__(self, config: CheckConfig, task: Task, practised: ImaginedVectorEnv | None) -> None:
        self.config, self.task, self._practised = config, task, practised
        self._real: LaneVectorEnv | None = None
        self._imagined: ImaginedVectorEnv | None = None

    def __call__(self, policy: Policy) -> tuple[Evaluation, dict[str, float]]:
        """What was measured in the simulator, and the numbers to log."""
        config, actor = self.config, PolicyActor(policy)
        lanes = min(config.lanes, config.episodes)
        if self._real is None:
            self._real = LaneVectorEnv(self.task, lanes, workers=config.workers, chunk=policy.action_horizon)
        real = self._measure(actor, self._real)
        row = {**real.metrics(), "success_final": real.success_final.value}
        if self._practised is not None:
            if self._imagined is None:
                self._imagined = self._practised.sibling(lanes)
            imagined = self._measure(actor, self._imagined).success_rate
            row |= {"imagined_success": imagined, "optimism": imagined - real.success_rate}
        return real, row

    def too_optimistic(self, row: dict[str, float]) -> bool:
        """Whether imagination promised much more than the simulator kept."""
        return row.get("optimism", 0.0) > self.config.max_gap

    def close(self) -> None:
        """Stop the environments."""
        if self._real is not None:
            self._real.close()

    def _measure(self, actor: PolicyActor, envs: LaneVectorEnv) -> Evaluation:
        return evaluate(
            actor, envs.task, episodes=self.config.episodes, block="select", envs=envs, progress=False
        )
