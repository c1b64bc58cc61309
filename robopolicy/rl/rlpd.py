"""Learning from scratch, with demonstrations (RLPD, Ball et al., ICML 2023) or without (SAC)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from robopolicy.codecs import Codec, CodecConfig
from robopolicy.errors import ConfigError
from robopolicy.policies.policy import Policy
from robopolicy.policies.squashed_gaussian import SquashedGaussianConfig, SquashedGaussianPolicy
from robopolicy.registry import register
from robopolicy.rl.actor_critic import ActorCritic
from robopolicy.rl.convention import ConventionConfig
from robopolicy.rl.off_policy import OffPolicy, OffPolicyConfig
from robopolicy.rl.practice import Experience
from robopolicy.rl.presets import learner_config
from robopolicy.rl.replay import Rows, observations, transition_rows
from robopolicy.seeding import derive
from robopolicy.spec import Spec
from robopolicy.vector import LaneVectorEnv

__all__ = ["RLPD", "SAC", "RLPDConfig", "Scratch", "ScratchConfig", "blank_policy"]


@dataclass(frozen=True, kw_only=True)
class ScratchConfig(OffPolicyConfig):
    """Horizons are the given policy's by default; nothing else but its codec is taken from it."""

    convention: ConventionConfig = field(default_factory=lambda: ConventionConfig(terminate=True))
    obs_horizon: int | None = None
    action_horizon: int | None = None


@dataclass(frozen=True, kw_only=True)
class RLPDConfig(ScratchConfig):
    """Published: 10 critics with LayerNorm, the smaller of 2 in targets, half of each batch demonstrated."""

    learner: Mapping[str, Any] = field(default_factory=lambda: {"preset": "rlpd"})


class Scratch(OffPolicy):
    """A squashed-Gaussian actor for whole chunks, learned by an `ActorCritic`."""

    from_nothing = True

    def __init__(
        self, config: ScratchConfig, *, policy: Policy, envs: LaneVectorEnv, seed: int, offset: int = 0
    ) -> None:
        learner = learner_config(config.learner)
        if learner.objective != "soft":
            raise ConfigError(f"The actor must explore: objective=soft, got {learner.objective}.")
        actor = SquashedGaussianConfig(
            obs_horizon=config.obs_horizon or policy.obs_horizon,
            action_horizon=config.action_horizon or policy.action_horizon,
            hidden=learner.hidden,
            layer_norm=learner.layer_norm,
        )
        practised = SquashedGaussianPolicy(actor, spec=policy.spec, codec=policy.codec)
        practised.provenance = policy.provenance
        super().__init__(config, practised.to(policy.device), envs, seed=seed, offset=offset)
        self.config, self.practised = config, practised
        self.learner = ActorCritic(
            learner,
            practised.state_size,
            practised.action_size,
            seed=derive(seed, "learner"),
            device=policy.device,
            value_range=config.convention.value_range(config.gamma),
        )
        practised.actor = self.learner.actor
        if (demonstrated := self.demonstrated()) is not None:
            self.keep(self._flat(demonstrated, practised.from_actions(demonstrated["action"])))

    def decide(self, observation: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, Rows]:
        """Uniform actions while warming, the actor's draws after."""
        state = self.practised.state(observation)
        if self.warming:
            shape = (len(state), self.practised.action_size)
            squashed = 2 * torch.rand(shape, generator=generator, device=state.device) - 1
        else:
            squashed = self.learner.act(state, generator)
        return self.practised.to_actions(squashed), {"squashed": squashed}

    def rows(self, experience: Experience, chunk: Tensor, decided: Rows) -> Rows:
        """States, not observations: the codec never changes."""
        raw = transition_rows(experience, chunk, self.policy.spec, self.config.gamma, **decided)
        return self._flat(raw, raw["squashed"])

    def _flat(self, raw: Rows, squashed: Tensor) -> Rows:
        return {
            "state": self.practised.state(observations(raw)),
            "action": squashed,
            "reward": raw["reward"],
            "discount": raw["discount"],
            "next_state": self.practised.state(observations(raw, "next_observation")),
        }


@register("method", "rlpd")
class RLPD(Scratch):
    """`data` names the demonstrations."""

    def __init__(
        self, config: RLPDConfig, *, policy: Policy, envs: LaneVectorEnv, seed: int, offset: int = 0
    ) -> None:
        if config.data is None:
            raise ConfigError("rlpd learns from demonstrations: give method.data=path/to/store.zarr.")
        super().__init__(config, policy=policy, envs=envs, seed=seed, offset=offset)


@register("method", "sac")
class SAC(Scratch):
    """No demonstrations are needed, nor anything of the policy but its spec, codec and horizons."""

    def __init__(
        self, config: ScratchConfig, *, policy: Policy, envs: LaneVectorEnv, seed: int, offset: int = 0
    ) -> None:
        super().__init__(config, policy=policy, envs=envs, seed=seed, offset=offset)


def blank_policy(spec: Spec, *, obs_horizon: int = 1, action_horizon: int = 1) -> Policy:
    """An untrained policy with an identity codec, for `SAC` on a task that nobody has demonstrated."""
    codec = Codec(CodecConfig(observation="identity", action="identity"), spec)
    config = SquashedGaussianConfig(obs_horizon=obs_horizon, action_horizon=action_horizon)
    return SquashedGaussianPolicy(config, spec=spec, codec=codec).eval()
