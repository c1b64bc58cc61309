"""Jump-start RL (Uchendu et al., ICML 2023): a guide acts first, for ever fewer steps, then the learner."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from robopolicy.errors import ConfigError
from robopolicy.policies.policy import Policy
from robopolicy.registry import register
from robopolicy.rl.replay import Rows
from robopolicy.rl.rlpd import Scratch, ScratchConfig
from robopolicy.vector import LaneVectorEnv

__all__ = ["JSRL", "JSRLConfig"]


@dataclass(frozen=True, kw_only=True)
class JSRLConfig(ScratchConfig):
    """Published: ten stages, and the next one once the return is as good as the best so far."""

    stages: int = 10
    """The guide's share of the horizon falls from 1 to 0 in this many steps."""
    window: int = 40
    """Practice episodes whose success is averaged."""
    tolerance: float = 0.05
    """How much, relatively, below the best average so far still lets the next stage begin."""
    learner: Mapping[str, Any] = field(default_factory=lambda: {"preset": "rlpd"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stages < 1 or self.window < 1 or not 0 <= self.tolerance < 1:
            raise ConfigError(
                f"jsrl needs stages, window >= 1 and 0 <= tolerance < 1; got {self.stages}, {self.window}, "
                f"{self.tolerance}."
            )


@register("method", "jsrl")
class JSRL(Scratch):
    """The policy is the guide; the refined policy is the learner alone. Both fill the replay."""

    from_nothing = False

    def __init__(
        self, config: JSRLConfig, *, policy: Policy, envs: LaneVectorEnv, seed: int, offset: int = 0
    ) -> None:
        super().__init__(config, policy=policy, envs=envs, seed=seed, offset=offset)
        if (self.policy.obs_horizon, self.policy.action_horizon) != (
            policy.obs_horizon,
            policy.action_horizon,
        ):
            raise ConfigError("jsrl: guide and learner take turns chunk by chunk: their horizons must agree.")
        self.guide, self.jump = policy, config
        self.stage, self.best = 0, 0.0
        self.recent: list[float] = []
        self.outdated = 0
        """Episodes still to end that began with more of the guide than the present stage has."""
        self.guided = 1.0
        """Share of the last chunks that were the guide's."""

    @property
    def guided_steps(self) -> int:
        """Steps at the start of every episode in which the guide acts."""
        share = 1 - self.stage / self.jump.stages
        return round(share * self.practice.envs.task.horizon)

    def decide(self, observation: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, Rows]:
        """The guide's chunk early in an episode, the learner's after."""
        state = self.practised.state(observation)
        squashed = self.learner.act(state, generator)
        guided = torch.as_tensor(self.practice.view.time < self.guided_steps, device=state.device)
        self.guided = float(guided.float().mean())
        if guided.any():
            start = self.guide.obs_horizon - 1
            chunk = self.guide.sample(observation, generator=generator).actions[:, 0]
            chunk = chunk[:, start : start + self.guide.action_horizon]
            squashed = torch.where(guided[:, None], self.practised.from_actions(chunk), squashed)
        return self.practised.to_actions(squashed), {"squashed": squashed}

    def advance(self) -> dict[str, float]:
        """As ever; then see whether the guide may step back."""
        logs = super().advance()
        self._see(logs)
        return {**logs, "guided": self.guided, "guided_steps": float(self.guided_steps)}

    def initial(self) -> Policy:
        """The guide: a learner that has learned nothing is not its own."""
        return copy.copy(self.guide)

    def state(self) -> dict[str, Any]:
        """With where the curriculum stands."""
        curriculum = {"best": self.best, "recent": self.recent, "outdated": self.outdated}
        return {**super().state(), "stage": self.stage, **curriculum}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Read back what `state` gave."""
        super().restore(state)
        self.stage, self.best = int(state["stage"]), float(state["best"])
        self.recent = [float(value) for value in state["recent"]]
        self.outdated = int(state.get("outdated", 0))

    def _see(self, logs: Mapping[str, float]) -> None:
        ended = int(logs.get("practice_episodes", 0))
        if self.outdated > 0:
            self.outdated -= ended
            return
        self.recent = (self.recent + [logs.get("practice_success", 0.0)] * ended)[-self.jump.window :]
        if self.warming or self.stage == self.jump.stages or len(self.recent) < self.jump.window:
            return
        average = sum(self.recent) / len(self.recent)
        if average >= self.best * (1 - self.jump.tolerance):
            self.stage, self.recent = self.stage + 1, []
            self.outdated = self.practice.envs.num_envs
        self.best = max(self.best, average)
