"""A learned correction of a frozen policy's every action (ResiP, Ankile et al. 2024), by SAC instead of PPO.

ResiP practises in a thousand environments at a time, which is what PPO wants; a replay and an ensemble of
critics need far fewer steps. The base's chunk is executed action by action, each corrected from what is
observed at its step; a transition is one step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robopolicy.errors import ConfigError
from robopolicy.policies.policy import Policy
from robopolicy.policies.residual import ResidualConfig as PolicyConfig
from robopolicy.policies.residual import ResidualPolicy
from robopolicy.registry import register, to_dict
from robopolicy.rl.actor_critic import ActorCritic
from robopolicy.rl.convention import ConventionConfig
from robopolicy.rl.off_policy import OffPolicy, OffPolicyConfig
from robopolicy.rl.practice import Experience
from robopolicy.rl.presets import learner_config
from robopolicy.rl.replay import Rows, observations, transition_rows
from robopolicy.seeding import derive
from robopolicy.vector import LaneVectorEnv

__all__ = ["Residual", "ResidualConfig"]


@dataclass(frozen=True, kw_only=True)
class ResidualConfig(OffPolicyConfig):
    """Small corrections, and critics that know something before the actor listens to them."""

    convention: ConventionConfig = field(default_factory=lambda: ConventionConfig(terminate=True))
    scale: float = 0.2
    """Largest correction, relative to half the range of the data."""
    action_horizon: int | None = None
    """Actions of the base's chunk that are used before it is asked again, its own by default."""
    update_ratio: float = 0.25
    """Gradient steps for each step practised: as many for a chunk of four as other methods."""
    n_step: int = 4
    critic_first: int = 500
    learner: Mapping[str, Any] = field(default_factory=lambda: {"preset": "rlpd"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale <= 0:
            raise ConfigError(f"residual needs scale > 0, got {self.scale}.")


@register("method", "residual")
class Residual(OffPolicy):
    """Any policy will do as the base."""

    def __init__(
        self, config: ResidualConfig, *, policy: Policy, envs: LaneVectorEnv, seed: int, offset: int = 0
    ) -> None:
        learner = learner_config(config.learner)
        wrapped = PolicyConfig(
            base=to_dict("policy", policy),
            scale=config.scale,
            action_horizon=config.action_horizon,
            hidden=learner.hidden,
            layer_norm=learner.layer_norm,
        )
        self.residual = ResidualPolicy(wrapped, spec=policy.spec, codec=policy.codec).to(policy.device)
        self.residual.base.load_state_dict(policy.state_dict())
        self.residual.provenance = policy.provenance
        super().__init__(config, self.residual, envs, seed=seed, offset=offset)
        self.config = config
        self.learner = ActorCritic(
            learner,
            self.residual.state_size,
            self.residual.codec.action_size,
            seed=derive(seed, "learner"),
            device=policy.device,
            actor={"initial_log_std": -1.0, "final_scale": 0.0},
            value_range=config.convention.value_range(config.gamma),
        )
        self.residual.actor = self.learner.actor
        # The base's chunk under way in each lane, and which of its actions is next.
        base, size = self.residual.base, policy.spec.action.size
        self.plan = torch.zeros(envs.num_envs, base.action_horizon, size, device=policy.device)
        self.next = torch.zeros(envs.num_envs, dtype=torch.int64, device=policy.device)
        if (rows := self.demonstrated()) is not None:
            self._demonstrate(rows)

    def decide(self, observation: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, Rows]:
        """The base's action, with the actor's draw added."""
        residual = self.residual
        self._plan_where(self.practice.view.time == 0, observation, generator)
        planned = self._planned()
        code = residual.encode(planned, observation)
        state = residual.state(observation, code)
        squashed = self.learner.act(state, generator)
        action = residual.corrected(planned, code, squashed, observation)
        return action[:, None], {"state": state, "squashed": squashed}

    def rows(self, experience: Experience, chunk: Tensor, decided: Rows) -> Rows:
        """The next state holds the base's next action, which is the one that will be executed."""
        following = self.tensors_of(experience.transition.next_observation)
        self.next += 1
        used_up = self.next == self.plan.shape[1]
        self._plan_where(used_up.cpu().numpy(), following, self.generator)
        planned = self.residual.encode(self._planned(), following)
        next_state = self.residual.state(following, planned)
        raw = transition_rows(
            experience, chunk, self.policy.spec, self.config.gamma, next_state=next_state, **decided
        )
        kept = {name: raw[name] for name in ("state", "reward", "discount", "next_state")}
        return {**kept, "action": raw["squashed"]}

    def tensors(self) -> dict[str, Tensor]:
        """With the chunks under way."""
        return {**super().tensors(), "plan": self.plan, "next": self.next}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Read back what `tensors` gave."""
        super().load_tensors(tensors)
        self.plan, self.next = (tensors[key].to(self.residual.device) for key in ("plan", "next"))

    def _planned(self) -> Tensor:
        """Each lane's action `[B, Da]` of its plan."""
        return self.plan[torch.arange(len(self.plan), device=self.plan.device), self.next]

    def _plan_where(
        self, lanes: np.ndarray, observation: dict[str, Tensor], generator: torch.Generator
    ) -> None:
        """Ask the base anew in some lanes."""
        if lanes.any():
            where = torch.as_tensor(lanes, device=self.plan.device)
            asked = {key: value[where] for key, value in observation.items()}
            self.plan[where], self.next[where] = self._propose(asked, generator), 0

    @torch.no_grad()
    def _propose(self, observation: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """The base's executed actions `[N, Ta, Da]`."""
        base = self.residual.base
        start = base.obs_horizon - 1
        chunk: Tensor = base.sample(observation, generator=generator).actions[:, 0]
        return chunk[:, start : start + base.action_horizon]

    @torch.no_grad()
    def _demonstrate(self, raw: Rows) -> None:
        """Demonstrated actions as corrections of what the base would have done (clipped to the largest)."""
        residual = self.residual.eval()
        generator = torch.Generator(residual.device).manual_seed(derive(self.seed, "demonstrations"))
        seen, following = observations(raw), observations(raw, "next_observation")
        code, next_code = (
            residual.encode(self._propose(observed, generator)[:, 0], observed)
            for observed in (seen, following)
        )
        wanted = residual.encode(raw["action"][:, 0], seen)
        self.keep(
            {
                "state": residual.state(seen, code),
                "action": residual.correction(code, wanted),
                "reward": raw["reward"],
                "discount": raw["discount"],
                "next_state": residual.state(following, next_code),
            }
        )
