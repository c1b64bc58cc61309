"""What methods with a replay share: practise a chunk, keep it, learn from what is kept."""

from __future__ import annotations

import abc
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robopolicy.device import products_of
from robopolicy.errors import ConfigError
from robopolicy.policies.policy import Policy, evaluating
from robopolicy.rl.actor_critic import ActorCritic, Transitions
from robopolicy.rl.convention import ConventionConfig
from robopolicy.rl.practice import Experience
from robopolicy.rl.refiner import Refiner
from robopolicy.rl.replay import Replay, Rows, demonstration_rows, mixed
from robopolicy.seeding import derive
from robopolicy.vector import LaneVectorEnv

__all__ = ["OffPolicy", "OffPolicyConfig", "averages"]


@dataclass(frozen=True, kw_only=True)
class OffPolicyConfig:
    """A transition is one chunk in one lane."""

    convention: ConventionConfig = field(default_factory=ConventionConfig)
    gamma: float = 0.99
    """Of one environment step; a chunk of n steps discounts by gamma^n."""
    update_ratio: float = 1.0
    """Gradient steps for each transition practised after the warm-up."""
    warmup: int = 5_000
    """Environment steps before anything is learned."""
    critic_first: int = 0
    """Gradient steps of the critics alone. An actor that follows critics which know nothing yet goes to where
    they are most wrong."""
    n_step: int = 1
    """Transitions of an episode whose rewards a target adds up before it asks the critics. Success is told
    backwards by so many chunks in a gradient step, and practice is taken for what the actor would do."""
    capacity: int = 500_000
    """Transitions kept."""
    data: str | None = None
    """A store of demonstrations, kept in a replay of their own."""
    demonstrations: int | None = None
    """So many of its episodes, the first ones; all by default."""
    data_share: float = 0.5
    """Share of every batch that comes from them."""
    learner: Mapping[str, Any] = field(default_factory=lambda: {"preset": "sac"})
    """A preset of `ActorCriticConfig`, and what is changed in it."""

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1 or not 0 <= self.data_share <= 1:
            raise ConfigError(
                f"Need 0 < gamma <= 1 and 0 <= data_share <= 1, got {self.gamma}, {self.data_share}."
            )
        if self.update_ratio <= 0 or min(self.warmup, self.critic_first) < 0:
            raise ConfigError(
                f"Need update_ratio > 0, warmup, critic_first >= 0; got {self.update_ratio}, {self.warmup}, "
                f"{self.critic_first}."
            )
        if min(self.n_step, self.capacity) < 1:
            raise ConfigError(f"Need n_step, capacity >= 1; got {self.n_step}, {self.capacity}.")


class OffPolicy(Refiner):
    """The loop; a subclass decides chunks, makes rows of them, and may learn in its own way.

    Args:
        policy: the one that is refined, with the base inside it where there is one.
    """

    learner: ActorCritic
    """A subclass makes it; its actor is the policy's."""

    def __init__(
        self, config: OffPolicyConfig, policy: Policy, envs: LaneVectorEnv, *, seed: int, offset: int
    ) -> None:
        if config.capacity < 2 * envs.num_envs:  # a lane's newest row must still be there for its next one
            raise ConfigError(
                f"The replay must hold two chunks of every lane: capacity >= {2 * envs.num_envs} with "
                f"{envs.num_envs} lanes, got {config.capacity}."
            )
        super().__init__(policy, envs, convention=config.convention, seed=seed, offset=offset)
        self.settings = config
        self.generator = torch.Generator(policy.device)
        self.replay = Replay(config.capacity, policy.device)
        self.demonstrations: Replay | None = None
        self.iteration, self.owed = 0, 0.0
        # Where each lane's last row is in the replay, -1 where its episode has none yet.
        self.newest = torch.full((envs.num_envs,), -1)

    @abc.abstractmethod
    def decide(self, observation: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, Rows]:
        """The executed chunk `[B, Ta, Da]` for every lane, and what of the decision `rows` will need."""

    @abc.abstractmethod
    def rows(self, experience: Experience, chunk: Tensor, decided: Rows) -> Rows:
        """What the replay keeps of it; lost lanes leave no row."""

    def transitions(self, rows: Rows) -> Transitions:
        """Rows of the replay as the learner takes them."""
        names = ("state", "action", "reward", "discount", "next_state")
        return Transitions(**{name: rows[name] for name in names})

    @property
    def warming(self) -> bool:
        """Whether the replay is still being filled."""
        return self.env_steps < self.settings.warmup

    def advance(self) -> dict[str, float]:
        """A chunk in every lane, and the gradient steps it is due."""
        generator, warming = self.generator, self.warming
        generator.manual_seed(derive(self.seed, f"practice/{self.iteration}"))
        self.iteration += 1
        started = time.perf_counter()
        seen = self.practice.view.observation
        with torch.no_grad(), evaluating(self.policy):
            chunk, decided = self.decide(self.tensors_of(seen), generator)
        acted = time.perf_counter()
        experience = self.practice.step(chunk.cpu().numpy())
        stepped = time.perf_counter()
        with torch.no_grad(), evaluating(self.policy):
            rows = self.rows(experience, chunk, decided)
        self._keep_linked(rows, experience)
        kept = time.perf_counter()
        logs: dict[str, float] = {}
        if not warming:
            self.owed += self.settings.update_ratio * len(rows["reward"])
            if (updates := int(self.owed)) and len(self.replay):
                self.owed -= updates
                with products_of(self.learner.config.batch_size):
                    logs = averages(self.learn(updates, generator))
        return {
            "seconds_sampling": acted - started + kept - stepped,
            "seconds_env": stepped - acted,
            "seconds_update": time.perf_counter() - kept,
            **logs,
            **self.practice.statistics(),
        }

    def learn(self, updates: int, generator: torch.Generator) -> list[dict[str, Tensor]]:
        """Gradient steps, each on a batch of its own; the first of all are the critics' alone."""
        size, learner = self.learner.config.batch_size, self.learner
        logs = []
        for batch in [self.transitions(self.batch(size, generator)) for _ in range(updates)]:
            if int(learner.updates) >= self.settings.critic_first:
                logs.append(learner.update(batch, generator))
            else:
                logs.append(learner.update_critic(batch, learner.targets(batch, generator), generator))
                learner.updates += 1
        return logs

    def batch(self, count: int, generator: torch.Generator) -> Rows:
        """Rows of both replays."""
        config = self.settings
        return mixed(self.replay, self.demonstrations, count, generator, config.data_share, config.n_step)

    def _keep_linked(self, rows: Rows, experience: Experience) -> None:
        """Into the replay, each row behind the one before it of its episode."""
        step, lost = experience.transition.step, experience.lost
        lanes = torch.from_numpy(np.flatnonzero(~lost))
        where = self.replay.add(rows)
        before = self.newest[lanes]
        going = (before >= 0).to(where.device)
        self.replay.link(before.to(where.device)[going], where[going])
        self.newest[lanes] = where.cpu()
        self.newest[torch.from_numpy(step.terminated | step.truncated | lost)] = -1

    def demonstrated(self) -> Rows | None:
        """Chunks of the demonstrations in raw observations and actions, if there are any."""
        config = self.settings
        if config.data is None:
            return None
        rows = demonstration_rows(
            config.data,
            self.policy.spec,
            config.convention,
            obs_horizon=self.policy.obs_horizon,
            action_horizon=self.policy.action_horizon,
            gamma=config.gamma,
            episodes=config.demonstrations,
        )
        return {key: value.to(self.policy.device) for key, value in rows.items()}

    def keep(self, rows: Rows) -> None:
        """Give the demonstrations a replay of just their size."""
        self.demonstrations = Replay(len(rows["reward"]), self.policy.device)
        self.demonstrations.add(rows)

    def tensors_of(self, observation: Mapping[str, Any]) -> dict[str, Tensor]:
        """The policy's observations, where the policy is."""
        return self.policy.tensors_of({key: observation[key] for key in self.policy.spec.observations})

    def refined(self) -> Policy:
        """The policy as it stands."""
        return self.policy.eval()

    def tensors(self) -> dict[str, Tensor]:
        """Learner and replay; demonstrations are read again from their store."""
        return {**self.learner.tensors("learner"), **self.replay.tensors("replay"), "newest": self.newest}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Read back what `tensors` gave."""
        self.learner.load_tensors(tensors, "learner")
        self.replay.load_tensors(tensors, "replay")
        self.newest = tensors["newest"].cpu()

    def state(self) -> dict[str, Any]:
        """Counters."""
        return {**super().state(), "iteration": self.iteration, "owed": self.owed}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Read back what `state` gave."""
        super().restore(state)
        self.iteration, self.owed = int(state["iteration"]), float(state["owed"])


def averages(logs: list[dict[str, Tensor]]) -> dict[str, float]:
    """Mean of each name over the updates that logged it."""
    names = dict.fromkeys(name for row in logs for name in row)
    return {name: float(torch.stack([row[name] for row in logs if name in row]).mean()) for name in names}
