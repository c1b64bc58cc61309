"""Diffusion steering by reinforcement learning (DSRL, Wagenmaker et al., CoRL 2025): RL chooses the noise.

The base policy stays as it is, a deterministic map from observation and noise to a chunk. `dsrl_sac` is SAC
with the noise as its action. `dsrl` (noise aliasing) has two ensembles of critics:

    Q_A(s, a)  of executed chunks:  reward + discount (Q_A(s', base(s', w')) - temperature log pi(w'|s'))
    Q_W(s, w)  of noise, distilled: member i of Q_W(s, w) to member i of Q_A(s, base(s, w))

so demonstrations, whose noise nobody knows, are of use too. Q_W is distilled on noise the actor may choose:
half from N(0, I) truncated to +-b, half from the actor itself. The noise is w = b tanh(u).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from robopolicy.errors import ConfigError
from robopolicy.networks.critic import CriticEnsemble
from robopolicy.policies.dsrl import NoiseSteeredConfig, NoiseSteeredPolicy
from robopolicy.policies.policy import Policy
from robopolicy.registry import register, to_dict
from robopolicy.rl import losses
from robopolicy.rl.actor_critic import ActorCritic, Transitions
from robopolicy.rl.authority import noise_authority, report_authority, truncated_normal
from robopolicy.rl.convention import ConventionConfig
from robopolicy.rl.off_policy import OffPolicy, OffPolicyConfig
from robopolicy.rl.optimizers import adam, load_optimizer, optimizer_tensors, step, track
from robopolicy.rl.practice import Experience
from robopolicy.rl.presets import learner_config
from robopolicy.rl.replay import Rows, observations, transition_rows
from robopolicy.seeding import derive
from robopolicy.vector import LaneVectorEnv

__all__ = [
    "DSRL",
    "DSRLSAC",
    "DSRLConfig",
    "NoiseConfig",
    "NoiseRefiner",
]


@dataclass(frozen=True, kw_only=True)
class NoiseConfig(OffPolicyConfig):
    """Published: cost until success, target entropy 0, LayerNorm in every network.

    Targets do not count entropy, as in the paper's algorithm (its code does), and stay within what a return
    can be: without both, values of a task that pays at most 0 rise far above it.
    """

    convention: ConventionConfig = field(default_factory=lambda: ConventionConfig(reward="cost"))
    gamma: float = 0.9975
    """0.99 for a chunk of four steps, as published for Can."""
    bound: float = 1.5
    """b: noise is chosen within +-b."""
    repeat: bool = False
    """One row of noise for all actions of a chunk."""
    deterministic: bool = False
    """The refined policy takes the actor's mean instead of drawing."""
    force: bool = False
    """Go on although the noise hardly moves the actions."""
    learner: Mapping[str, Any] = field(
        default_factory=lambda: {
            "preset": "sac",
            "layer_norm": True,
            "target_entropy": 0.0,
            "entropy_backup": False,
        }
    )


@dataclass(frozen=True, kw_only=True)
class DSRLConfig(NoiseConfig):
    """With the noise critic's."""

    distill_ratio: float = 1.0
    """Distillation steps for each gradient step of the action critic (published: 10 for 20)."""
    actor_share: float = 0.5
    """Share of the distillation's noise that the actor draws."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distill_ratio <= 0 or not 0 <= self.actor_share <= 1:
            raise ConfigError(
                f"dsrl needs distill_ratio > 0 and 0 <= actor_share <= 1; got {self.distill_ratio}, "
                f"{self.actor_share}."
            )


class NoiseRefiner(OffPolicy):
    """What both variants share: practising with noise from the actor."""

    def __init__(
        self, config: NoiseConfig, *, policy: Policy, envs: LaneVectorEnv, seed: int, offset: int = 0
    ) -> None:
        policy.require("noise")
        learner = learner_config(config.learner)
        if learner.objective != "soft":
            raise ConfigError(f"The actor must explore: objective=soft, got {learner.objective}.")
        steered = NoiseSteeredConfig(
            base=to_dict("policy", policy),
            bound=config.bound,
            repeat=config.repeat,
            hidden=learner.hidden,
            layer_norm=learner.layer_norm,
            deterministic=config.deterministic,
        )
        self.steered = NoiseSteeredPolicy(steered, spec=policy.spec, codec=policy.codec).to(policy.device)
        self.steered.base.load_state_dict(policy.state_dict())
        self.steered.provenance = policy.provenance
        super().__init__(config, self.steered, envs, seed=seed, offset=offset)
        self.config, self.base = config, self.steered.base
        self.executed = slice(policy.obs_horizon - 1, policy.obs_horizon - 1 + policy.action_horizon)
        self.learner = ActorCritic(
            learner,
            self.steered.state_size,
            self.steered.action_size,
            seed=derive(seed, "learner"),
            device=policy.device,
            value_range=config.convention.value_range(config.gamma),
        )
        self.steered.actor = self.learner.actor
        self.generator.manual_seed(derive(seed, "authority"))
        authority = noise_authority(
            self.base, self.tensors_of(self.practice.view.observation), config.bound, self.generator
        )
        report_authority(authority, force=config.force)

    def decide(self, observation: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, Rows]:
        """The base's chunk for clipped normal noise while warming, for the actor's after."""
        state = self.steered.state(observation)
        if self.warming:
            shape = (len(state), self.steered.action_size)
            drawn = torch.randn(shape, generator=generator, device=state.device)
            squashed = (drawn / self.config.bound).clamp(-1, 1)
        else:
            squashed = self.learner.act(state, generator)
        return self.act(observation, squashed), {"squashed": squashed}

    def initial(self) -> Policy:
        """The base: noise from an actor that has learned nothing is not its own."""
        return copy.copy(self.base)

    def act(self, observation: dict[str, Tensor], squashed: Tensor) -> Tensor:
        """What would be executed, `[N, Ta, Da]`, for actions of the actor `[N, action_size]`."""
        noise = self.steered.to_noise(squashed)[:, None]
        chunk: Tensor = self.base.sample(observation, noise=noise).actions[:, 0, self.executed]
        return chunk

    def rows(self, experience: Experience, chunk: Tensor, decided: Rows) -> Rows:
        """Raw observations: the base is asked again about them."""
        return transition_rows(experience, chunk, self.policy.spec, self.config.gamma, **decided)


@register("method", "dsrl_sac")
class DSRLSAC(NoiseRefiner):
    """SAC on the noise. Demonstrations are of no use to it: their noise is unknown."""

    def __init__(
        self, config: NoiseConfig, *, policy: Policy, envs: LaneVectorEnv, seed: int, offset: int = 0
    ) -> None:
        if config.data is not None:
            raise ConfigError("dsrl_sac learns of noise, which demonstrations lack; method=dsrl takes data.")
        super().__init__(config, policy=policy, envs=envs, seed=seed, offset=offset)

    def transitions(self, rows: Rows) -> Transitions:
        """The noise is the action."""
        return Transitions(
            state=self.steered.state(observations(rows)),
            action=rows["squashed"],
            reward=rows["reward"],
            discount=rows["discount"],
            next_state=self.steered.state(observations(rows, "next_observation")),
        )


@register("method", "dsrl")
class DSRL(NoiseRefiner):
    """Noise aliasing. A call asks the base twice: for all next chunks, and for all that is distilled."""

    def __init__(
        self, config: DSRLConfig, *, policy: Policy, envs: LaneVectorEnv, seed: int, offset: int = 0
    ) -> None:
        super().__init__(config, policy=policy, envs=envs, seed=seed, offset=offset)
        self.aliasing, learner = config, self.learner.config
        size = self.steered.state_size + policy.action_horizon * policy.codec.action_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "action critic"))
            self.action_critic = CriticEnsemble(
                learner.critics, size, learner.hidden, layer_norm=learner.layer_norm
            ).to(policy.device)
        if math.isfinite(self.learner.value_range[0]):
            self.action_critic.begin_at(self.learner.value_range[0])
        self.slow_action_critic = copy.deepcopy(self.action_critic).requires_grad_(False)
        self.action_optimizer = adam(self.action_critic, learner.learning_rate)
        if (rows := self.demonstrated()) is not None:
            self.keep(rows)

    def batch(self, count: int, generator: torch.Generator) -> Rows:
        """What demonstrations and practice have in common: all but the noise."""
        rows, n_step = self.replay.sample, self.config.n_step
        if self.demonstrations is None:
            return rows(count, generator, n_step)
        demonstrated = round(self.config.data_share * count)
        fresh = rows(count - demonstrated, generator, n_step)
        given = self.demonstrations.sample(demonstrated, generator)
        return {key: torch.cat([fresh[key], value]) for key, value in given.items()}

    def learn(self, updates: int, generator: torch.Generator) -> list[dict[str, Tensor]]:
        """Action critics, then noise critics, then the actor: each builds on the one before."""
        logs = self._fit_action_critic(updates, generator)
        distilled = max(1, round(self.aliasing.distill_ratio * updates))
        logs += self._distill(distilled, generator)
        self.learner.updates += updates
        if int(self.learner.updates) <= self.config.critic_first:
            return logs
        size = self.learner.config.batch_size
        for _ in range(updates):
            state = self.steered.state(observations(self.batch(size, generator)))
            nothing = torch.empty(0, device=state.device)
            batch = Transitions(
                state=state, action=nothing, reward=nothing, discount=nothing, next_state=nothing
            )
            logs.append(self.learner.update_actor(batch, generator))
        return logs

    def tensors(self) -> dict[str, Tensor]:
        """With the action critics."""
        found = {**super().tensors(), **optimizer_tensors(self.action_optimizer, "action_optimizer")}
        for name, module in (("action_critic", self.action_critic), ("slow", self.slow_action_critic)):
            found |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
        return found

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Read back what `tensors` gave."""
        super().load_tensors(tensors)
        for name, module in (("action_critic", self.action_critic), ("slow", self.slow_action_critic)):
            module.load_state_dict({key: tensors[f"{name}.{key}"] for key in module.state_dict()})
        load_optimizer(self.action_optimizer, tensors, "action_optimizer")

    def _fit_action_critic(self, updates: int, generator: torch.Generator) -> list[dict[str, Tensor]]:
        config = self.learner.config
        rows = self.batch(updates * config.batch_size, generator)
        with torch.no_grad():
            seen, following = observations(rows), observations(rows, "next_observation")
            state, next_state = self.steered.state(seen), self.steered.state(following)
            action = self._encoded(rows["action"], seen)
            noise = torch.randn(
                (len(state), self.steered.action_size), generator=generator, device=state.device
            )
            squashed, log_prob = self.learner.actor.sample(next_state, noise)
            next_action = self._encoded(self.act(following, squashed), following)
            bonus = -self.learner.log_temperature.exp() * log_prob if config.entropy_backup else 0.0
        logs = []
        for at in range(0, len(state), config.batch_size):
            part = slice(at, at + config.batch_size)
            with torch.no_grad(), self.learner.cast():
                ahead = self.slow_action_critic(next_state[part], next_action[part])
                value = self.learner.aggregate(ahead, config.target, generator)
                value = value + (bonus[part] if isinstance(bonus, Tensor) else bonus)
                target = rows["reward"][part] + rows["discount"][part] * value
                target = target.clamp(*self.learner.value_range)
            with self.learner.cast():
                values = self.action_critic(state[part], action[part])
            loss = losses.TD_LOSSES[config.loss](target - values, config.huber_delta).mean(1).sum()
            step(self.action_optimizer, loss)
            track(self.slow_action_critic, self.action_critic, config.tau)
            logs.append({"critic_loss": loss.detach(), "q": values.detach().mean()})
        return logs

    def _distill(self, updates: int, generator: torch.Generator) -> list[dict[str, Tensor]]:
        size = self.learner.config.batch_size
        rows = self.batch(updates * size, generator)
        with torch.no_grad():
            seen = observations(rows)
            state = self.steered.state(seen)
            shape = (len(state), self.steered.action_size)
            prior = truncated_normal(shape, self.config.bound, generator, state.device) / self.config.bound
            chosen = self.learner.act(state, generator)
            by_actor = torch.rand((len(state), 1), generator=generator, device=state.device)
            squashed = torch.where(by_actor < self.aliasing.actor_share, chosen, prior)
            chunk = self._encoded(self.act(seen, squashed), seen)
            with self.learner.cast():
                target = self.action_critic(state, chunk)
        logs = []
        for at in range(0, len(state), size):
            part = slice(at, at + size)
            batch = Transitions(
                state=state[part], action=squashed[part], reward=rows["reward"][part],
                discount=rows["discount"][part], next_state=state[part],
            )  # fmt: skip
            logs.append(
                {"distill_loss": self.learner.update_critic(batch, target[:, part], generator)["critic_loss"]}
            )
        return logs

    def _encoded(self, chunk: Tensor, observation: dict[str, Tensor]) -> Tensor:
        """Executed chunks `[N, Ta, Da]` as the critics see them, `[N, Ta * Dz]`."""
        now = {key: value[:, -1:] for key, value in observation.items()}
        return self.steered.codec.encode_action(chunk, now).flatten(1)
