"""A learned correction on top of a frozen policy (after ResiP, Ankile et al. 2024), by SAC instead of PPO.

ResiP practises in a thousand environments at a time, which is what PPO wants; a replay and an ensemble of
critics need far fewer steps. The correction sees the observation and the base's actions. With the base's own
`action_horizon` it is decided once for the rows of a chunk; with ``action_horizon=1`` at every step, and then
the base is asked again at every step too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from robopolicy.errors import ConfigError
from robopolicy.policies.policy import Policy, Request, draw
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
            self.residual.action_size,
            seed=derive(seed, "learner"),
            device=policy.device,
            actor={"initial_log_std": -1.0, "final_scale": 0.0},
            value_range=config.convention.value_range(config.gamma),
        )
        self.residual.actor = self.learner.actor
        # The base's chunk for what each lane sees now, made to close its last transition.
        self.ahead = torch.zeros(envs.num_envs, *self.residual.base.noise_shape, device=policy.device)
        if (rows := self.demonstrated()) is not None:
            self._demonstrate(rows)

    def decide(self, observation: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, Rows]:
        """The base's rows, with the actor's draw added."""
        residual = self.residual
        fresh = torch.as_tensor(self.practice.view.time == 0, device=residual.device)
        code = self.ahead.clone()
        if fresh.any():
            started = {key: value[fresh] for key, value in observation.items()}
            code[fresh] = self._propose(started, generator)
        state = residual.state(observation, code)
        squashed = self.learner.act(state, generator)
        chunk = residual.codec.decode_action(residual.correct(code, squashed), observation)
        return chunk[:, residual.executed], {"state": state, "squashed": squashed}

    def rows(self, experience: Experience, chunk: Tensor, decided: Rows) -> Rows:
        """The next state holds the base's next chunk, which is the one that will be executed."""
        following = self.tensors_of(experience.transition.next_observation)
        self.ahead = self._propose(following, self.generator)
        next_state = self.residual.state(following, self.ahead)
        raw = transition_rows(
            experience, chunk, self.policy.spec, self.config.gamma, next_state=next_state, **decided
        )
        kept = {name: raw[name] for name in ("state", "reward", "discount", "next_state")}
        return {**kept, "action": raw["squashed"]}

    def tensors(self) -> dict[str, Tensor]:
        """With the chunks that are ahead."""
        return {**super().tensors(), "ahead": self.ahead}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Read back what `tensors` gave."""
        super().load_tensors(tensors)
        self.ahead = tensors["ahead"].to(self.residual.device)

    @torch.no_grad()
    def _propose(self, observation: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        count = len(next(iter(observation.values())))
        noise = draw((count, 1, *self.residual.noise_shape), generator, self.residual.device)
        return self.residual.base.generate(observation, Request(noise, generator)).code

    @torch.no_grad()
    def _demonstrate(self, raw: Rows) -> None:
        """Demonstrated actions as corrections of what the base would have done (clipped to the largest)."""
        residual = self.residual.eval()
        generator = torch.Generator(residual.device).manual_seed(derive(self.seed, "demonstrations"))
        seen, following = observations(raw), observations(raw, "next_observation")
        code, next_code = self._propose(seen, generator), self._propose(following, generator)
        now = {key: value[:, -1:] for key, value in seen.items()}
        wanted = residual.codec.encode_action(raw["action"], now)
        self.keep(
            {
                "state": residual.state(seen, code),
                "action": residual.correction(code, wanted),
                "reward": raw["reward"],
                "discount": raw["discount"],
                "next_state": residual.state(following, next_code),
            }
        )
