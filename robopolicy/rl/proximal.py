"""Proximal policy optimisation (Schulman et al. 2017) over chunks: what DPPO and Gaussian PPO share.

An action may be drawn in S stages, each with a density (the denoising steps of a diffusion policy; a Gaussian
has one). All stages of a chunk share its advantage; stage s has its own weight and its own clip range.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robopolicy.device import products_of
from robopolicy.errors import ConfigError
from robopolicy.learning.nan_guard import NotFiniteError
from robopolicy.networks.value import StateValue
from robopolicy.policies.policy import Policy
from robopolicy.rl.convention import ConventionConfig
from robopolicy.rl.optimizers import load_optimizer, optimizer_tensors
from robopolicy.rl.refiner import Refiner
from robopolicy.rl.reward_scaling import RewardScaling
from robopolicy.rl.targets import Discounting, advantages, chunk_reward
from robopolicy.seeding import derive
from robopolicy.vector import LaneVectorEnv

__all__ = ["LOG_PROB_RANGE", "Drawn", "Proximal", "ProximalConfig", "Rollout"]

LOG_PROB_RANGE = (-5.0, 2.0)
"""Of one dimension's log-density; beyond it there is no gradient."""


@dataclass(frozen=True, kw_only=True)
class ProximalConfig:
    """An iteration is `chunks` chunks in every lane, then `epochs` passes over them."""

    convention: ConventionConfig = field(default_factory=ConventionConfig)
    chunks: int = 75
    epochs: int = 10
    batch_size: int = 3000
    """Pairs of chunk and stage; batches are made equal, so that none is left over."""
    gamma: float = 0.999
    discounting: Discounting = "step"
    lam: float = 0.95
    """GAE's lambda, per chunk."""
    actor_rate: float = 1e-4
    critic_rate: float = 1e-3
    critic_width: int = 256
    critic_warmup: int = 1
    """First iterations that train the critic alone."""
    scale_rewards: bool = True
    normalize_advantages: bool = True
    target_kl: float = 1.0
    """An iteration's updates stop where the divergence from its start exceeds this."""
    max_gradient: float = 0.0
    """Gradients are clipped to this norm; 0 leaves them."""

    def __post_init__(self) -> None:
        for name in ("chunks", "epochs", "batch_size", "critic_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"method.{name} must be >= 1, got {getattr(self, name)}.")
        if not 0 < self.gamma <= 1 or not 0 <= self.lam <= 1:
            raise ConfigError(f"method needs 0 < gamma <= 1 and 0 <= lam <= 1, got {self.gamma}, {self.lam}.")
        if min(self.actor_rate, self.critic_rate, self.target_kl) <= 0 or self.critic_warmup < 0:
            raise ConfigError("method needs actor_rate, critic_rate, target_kl > 0 and critic_warmup >= 0.")


@dataclass(frozen=True)
class Drawn:
    """Chunks for N conditions, with what their density is recomputed from."""

    code: Tensor
    """`[N, Tp, Dz]`."""
    trace: Tensor
    """What was drawn, stage by stage: `[N, S+1, Tp, Dz]` (entry 0 is what the first stage started from)."""
    log_prob: Tensor
    """`[N, S]`."""


@dataclass(frozen=True)
class Rollout:
    """An iteration's N chunks, on the policy's device."""

    condition: Tensor
    """`[N, To, Dc]`."""
    trace: Tensor
    """`[N, S+1, Tp, Dz]`."""
    log_prob: Tensor
    """Under the policy that drew them, `[N, S]`."""
    advantage: Tensor
    """`[N]`."""
    returns: Tensor
    """What the critic should say, `[N]`."""


class Proximal(Refiner):
    """A subclass makes `actor` (trained) and says how chunks are drawn and how likely they are."""

    stages: int
    """S."""
    actor: nn.Module
    weight: Tensor
    """Of each stage's advantage, `[S]`."""
    clip: Tensor
    """Clip range of each stage's ratio, `[S]`."""

    def __init__(
        self, config: ProximalConfig, policy: Policy, envs: LaneVectorEnv, *, seed: int, offset: int
    ) -> None:
        super().__init__(policy, envs, convention=config.convention, seed=seed, offset=offset)
        self.settings = config
        self.iteration = 0
        self.generator = torch.Generator(policy.device)
        start = policy.obs_horizon - 1
        self.rows = slice(start, start + policy.action_horizon)
        self.scaling = RewardScaling(envs.num_envs)
        size = self._look()[1].flatten(1).shape[1]
        self.generator.manual_seed(derive(seed, "critic"))
        torch.manual_seed(derive(seed, "critic"))
        self.critic = StateValue(size, config.critic_width).to(policy.device)

    def _optimizers(self) -> None:
        """Call this once the actor exists."""
        device = self.policy.device.type
        fused = device in ("cpu", "cuda")
        self.actor_parameters = [p for p in self.actor.parameters() if p.requires_grad]
        self.actor_optimizer = torch.optim.AdamW(
            self.actor_parameters, lr=self.settings.actor_rate, weight_decay=0.0, fused=fused
        )
        self.critic_parameters = list(self.critic.parameters())
        self.critic_optimizer = torch.optim.AdamW(
            self.critic_parameters, lr=self.settings.critic_rate, weight_decay=0.0, fused=fused
        )

    @abc.abstractmethod
    def draw(self, condition: Tensor) -> Drawn:
        """Chunks to practise with, for conditions `[N, To, Dc]`; random by `generator` alone."""

    @abc.abstractmethod
    def log_prob(self, condition: Tensor, before: Tensor, after: Tensor, stage: Tensor) -> Tensor:
        """Log-density `[N]` of drawing `after` `[N, Tp, Dz]` in stage `[N]`.

        It is the mean over the executed rows and all Dz.
        """

    def regularizer(self, condition: Tensor) -> Tensor | None:
        """A further loss for a batch of conditions, if the method has one."""
        del condition
        return None

    @property
    def warming(self) -> bool:
        """During the critic's warm-up."""
        return self.iteration < self.settings.critic_warmup

    def advance(self) -> dict[str, float]:
        """Practise `chunks` chunks in every lane, then update."""
        rollout, row = self.practise()
        started = time.perf_counter()
        if len(rollout.condition):  # there is none where every lane was lost with its worker
            with products_of(self.settings.batch_size):
                row |= self.update(rollout)
        self.iteration += 1
        row["seconds_update"] = time.perf_counter() - started
        return {**row, **self.practice.statistics()}

    @torch.no_grad()
    def practise(self) -> tuple[Rollout, dict[str, float]]:
        """An iteration's chunks, and what to log of them."""
        settings, practice = self.settings, self.practice
        lanes, sampled, stepped = practice.envs.num_envs, 0.0, 0.0
        conditions, drawns, finals = [], [], []
        shape = (settings.chunks, lanes)
        paid, discount = np.zeros(shape), np.zeros(shape)
        terminated, truncated, lost = (np.zeros(shape, bool) for _ in range(3))
        for t in range(settings.chunks):
            started = time.perf_counter()
            raw, condition = self._look()
            self.generator.manual_seed(derive(self.seed, f"practice/{self.iteration}/{t}"))
            drawn = self.draw(condition)
            actions = self.policy.codec.decode_action(drawn.code, raw)[:, self.rows].float().cpu().numpy()
            sampled += time.perf_counter() - started
            started = time.perf_counter()
            experience = practice.step(actions)
            stepped += time.perf_counter() - started
            step = experience.transition.step
            paid[t], discount[t] = chunk_reward(
                experience.rewards, experience.steps, settings.gamma, settings.discounting
            )
            terminated[t], truncated[t], lost[t] = step.terminated, step.truncated, step.lost
            conditions.append(condition)
            drawns.append(drawn)
            finals.append(self._final_values(experience.transition.next_observation, step.truncated))
        started = time.perf_counter()
        condition = torch.stack(conditions)
        values = self._values(condition.flatten(0, 1)).reshape(shape)
        last = self._values(self._look()[1])
        following = np.concatenate([values[1:], last[None]])
        for t, (ended, final) in enumerate(finals):
            following[t, ended] = final
        rewards = self.scaling(paid, terminated | truncated, ~lost) if settings.scale_rewards else paid
        advantage = advantages(
            rewards, discount, values, following, terminated, truncated, lam=settings.lam, lost=lost
        )
        kept = torch.from_numpy(np.flatnonzero(~lost)).to(condition.device)
        rollout = Rollout(
            condition=condition.flatten(0, 1)[kept],
            trace=torch.stack([d.trace for d in drawns]).flatten(0, 1)[kept],
            log_prob=torch.stack([d.log_prob for d in drawns]).flatten(0, 1)[kept],
            advantage=self._tensor(advantage).flatten()[kept],
            returns=self._tensor(advantage + values).flatten()[kept],
        )
        sampled += time.perf_counter() - started
        explained = 0.0
        if len(kept):
            unexplained = float(np.var(advantage[~lost]))
            explained = 1 - unexplained / max(float(np.var((advantage + values)[~lost])), 1e-12)
        return rollout, {
            "seconds_sampling": sampled,
            "seconds_env": stepped,
            "value": float(values.mean()),
            "explained_variance": explained,
            "reward_deviation": self.scaling.deviation,
        }

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Passes over a rollout; returns means over the batches."""
        settings, count = self.settings, len(rollout.condition)
        pairs = count * self.stages
        batches = max(1, round(pairs / settings.batch_size))
        sums = np.zeros(5)
        done, stopped = 0, False
        for epoch in range(settings.epochs):
            self.generator.manual_seed(derive(self.seed, f"update/{self.iteration}/{epoch}"))
            device = self.generator.device
            pair = torch.randperm(pairs, generator=self.generator, device=device)
            chunk = torch.randperm(count, generator=self.generator, device=device)
            for mine, theirs in zip(pair.tensor_split(batches), chunk.tensor_split(batches), strict=True):
                value_loss = (
                    (self.critic(rollout.condition[theirs]) - rollout.returns[theirs]).square().mean()
                )
                self._step(self.critic_optimizer, self.critic_parameters, value_loss)
                if self.warming:
                    zero = value_loss.new_zeros(())
                    found = (zero, value_loss, zero, zero, zero)
                else:
                    loss, *others = self._improve(rollout, mine, theirs)
                    found = (loss, value_loss, *others)
                batch = torch.stack([value.detach().double() for value in found]).cpu().numpy()
                if not np.isfinite(batch).all():
                    self._blame(rollout)
                sums += batch
                done += 1
                if batch[2] > settings.target_kl:
                    stopped = True
                    break
            if stopped:
                break
        names = ("policy_loss", "value_loss", "kl", "clip_fraction", "ratio_error")
        means = dict(zip(names, (sums / done).tolist(), strict=True))
        return {**means, "updates": float(done), "kl_stop": float(stopped)}

    def actor_loss(self, rollout: Rollout, pair: Tensor, advantage: Tensor) -> Tensor:
        """Means `[4]` over pairs: clipped loss, divergence, share beyond the clip range, |ratio - 1|."""
        chunk, stage = self._chunk_and_stage(pair)
        log_prob = self.log_prob(
            rollout.condition[chunk], rollout.trace[chunk, stage], rollout.trace[chunk, stage + 1], stage
        )
        difference = log_prob - rollout.log_prob[chunk, stage]
        ratio, limit = difference.exp(), self.clip[stage]
        inside = torch.minimum(torch.maximum(ratio, 1 - limit), 1 + limit)
        loss = torch.maximum(-advantage * ratio, -advantage * inside)
        off = (ratio - 1).detach().abs()
        return torch.stack([loss, ratio - 1 - difference, (off > limit).to(off.dtype), off]).mean(1)

    def _improve(self, rollout: Rollout, pair: Tensor, chunk: Tensor) -> Tensor:
        """One step of the actor on these pairs, its regulariser on these chunks; gives `actor_loss`'s."""
        own, stage = self._chunk_and_stage(pair)
        advantage = rollout.advantage[own]
        if self.settings.normalize_advantages:
            advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
        advantage = advantage * self.weight[stage]
        means = self.actor_loss(rollout, pair, advantage)
        regularizer = self.regularizer(rollout.condition[chunk])
        loss = means[0] if regularizer is None else means[0] + regularizer
        self._step(self.actor_optimizer, self.actor_parameters, loss)
        return torch.cat([loss.detach()[None], means[1:].detach()])

    def _chunk_and_stage(self, pair: Tensor) -> tuple[Tensor, Tensor]:
        return torch.div(pair, self.stages, rounding_mode="floor"), pair % self.stages

    def tensors(self) -> dict[str, Tensor]:
        """Weights and optimisers."""
        found = {f"actor.{name}": value for name, value in self.actor.state_dict().items()}
        found |= {f"critic.{name}": value for name, value in self.critic.state_dict().items()}
        found |= optimizer_tensors(self.actor_optimizer, "actor_optimizer")
        return found | optimizer_tensors(self.critic_optimizer, "critic_optimizer")

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Read back what `tensors` gave."""
        for module, prefix in ((self.actor, "actor."), (self.critic, "critic.")):
            module.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
        load_optimizer(self.actor_optimizer, tensors, "actor_optimizer")
        load_optimizer(self.critic_optimizer, tensors, "critic_optimizer")

    def state(self) -> dict[str, Any]:
        """Counters, JSON-ready."""
        return {**super().state(), "iteration": self.iteration, "scaling": self.scaling.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Read back what `state` gave."""
        super().restore(state)
        self.iteration = int(state["iteration"])
        self.scaling.restore(state["scaling"])

    @torch.no_grad()
    def _look(self) -> tuple[dict[str, Tensor], Tensor]:
        """Raw observations of every lane and their condition `[B, To, Dc]`."""
        return self._see(self.practice.view.observation)

    def _see(self, observation: Mapping[str, np.ndarray]) -> tuple[dict[str, Tensor], Tensor]:
        device = self.policy.device
        raw = {key: torch.as_tensor(observation[key], device=device) for key in self.policy.spec.observations}
        condition: Tensor = self.policy.condition(raw)  # type: ignore[operator]
        return raw, condition

    def _final_values(
        self, observation: Mapping[str, np.ndarray], truncated: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Lanes whose episode was cut off, and the values of their final observations."""
        lanes = np.flatnonzero(truncated)
        if not lanes.size:
            return lanes, np.zeros(0)
        return lanes, self._values(self._see({key: value[lanes] for key, value in observation.items()})[1])

    @torch.no_grad()
    def _values(self, condition: Tensor) -> np.ndarray:
        found: np.ndarray = self.critic(condition).double().cpu().numpy()
        return found

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=self.policy.device)

    def _step(self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.settings.max_gradient:
            torch.nn.utils.clip_grad_norm_(parameters, self.settings.max_gradient)
        optimizer.step()

    def _blame(self, rollout: Rollout) -> None:
        suspects = {
            "observations": rollout.condition,
            "chunks": rollout.trace,
            "log-probabilities": rollout.log_prob,
            "advantages": rollout.advantage,
            **{f"actor {name}": value for name, value in self.actor.named_parameters()},
            **{f"critic {name}": value for name, value in self.critic.named_parameters()},
        }
        bad = [name for name, value in suspects.items() if not torch.isfinite(value).all()]
        raise NotFiniteError(
            f"The loss is not finite in iteration {self.iteration} (not finite: "
            f"{', '.join(bad[:6]) or 'nothing it was made of: it overflowed'}). "
            "The last checkpoint is untouched."
        )
