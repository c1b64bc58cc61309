"""A critic beside a policy: the one way from the policy's encoded chunks to what the critic values.

Between the two are actions in the robot's units. The policy's codec decodes a chunk to what the robot would
execute, and the critic's codec encodes those numbers as it encoded recorded ones in training: a chunk that is
executed, recorded and learned from looks the same to the critic, to the last bit.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from robopolicy.errors import ConfigError
from robopolicy.policies.actor_critic import ActorCriticPolicy, load_value
from robopolicy.policies.policy import Generation, Policy, Request
from robopolicy.registry import config_class
from robopolicy.steering.ledger import Ledger
from robopolicy.steering.several import candidates
from robopolicy.steering.steer import Steered

__all__ = ["Bound", "Judge", "Judged", "Observation", "Proposal", "judge_of"]

Observation = Mapping[str, Tensor]


class Judge(nn.Module):
    """Values of a policy's chunks.

    Raises:
        SpecMismatch: the two disagree about actions, rates or observations that both see.
        ConfigError: horizons that do not fit.
    """

    def __init__(self, policy: Policy, critic: ActorCriticPolicy) -> None:
        super().__init__()
        ours, theirs = policy.spec.observations, critic.spec.observations
        self.spec = dataclasses.replace(policy.spec, observations={**theirs, **ours})
        """What both see together."""
        wanted = dataclasses.replace(critic.spec, observations={**ours, **theirs})
        wanted.require(self.spec, "policy to steer")
        past, ahead = policy.obs_horizon - 1, critic.action_horizon
        if critic.obs_horizon > policy.obs_horizon or past + ahead > policy.pred_horizon:
            raise ConfigError(
                f"The critic sees {critic.obs_horizon} observations and values {ahead} actions; the policy "
                f"sees {policy.obs_horizon} and predicts {policy.pred_horizon - past}. Train values with "
                f"value.obs_horizon={policy.obs_horizon} value.action_horizon={policy.action_horizon}."
            )
        if ahead != policy.action_horizon:
            warnings.warn(
                f"The critic values {ahead} actions, the policy executes {policy.action_horizon}.",
                stacklevel=4,
            )
        self.codec = policy.codec
        self.critic = critic.to(policy.device).requires_grad_(False).eval()
        self.observed, self.texts = tuple(ours), tuple(policy.codec.texts)
        self.rows = slice(past - (critic.obs_horizon - 1), past + ahead)
        self._tokens = policy.tokens if self.texts else None
        empty = self._tokens([""]) if self._tokens else torch.zeros(1, 0)
        self._shape, self._dtype = empty.shape[1:], empty.dtype

    def around(self, steered: Steered) -> None:
        """Make a policy observe what the critic needs besides, and remember which episodes taught it."""
        critic, policy = self.critic, steered.policy
        steered.spec = self.spec
        if extra := [key for key in critic.codec.texts if key not in self.texts]:
            steered.codec = copy.copy(policy.codec)
            steered.codec.texts = [*policy.codec.texts, *extra]
        seeds = dict.fromkeys((*policy.provenance.used_seeds, *critic.provenance.used_seeds))
        steered.provenance = dataclasses.replace(policy.provenance, used_seeds=tuple(seeds))

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """What stands for B texts for both, side by side `[B, T]`: their encoders know different words."""
        parts = []
        if self._tokens is not None:
            parts.append(self._tokens(texts).flatten(1))
        if self.critic.codec.texts:
            parts.append(self.critic.tokens(texts).flatten(1))
        return torch.cat(parts, 1)

    def of_policy(self, observation: Observation) -> dict[str, Tensor]:
        """The policy's part of what both see `[B, ...]`."""
        seen = {key: observation[key] for key in self.observed}
        count = math.prod(self._shape)
        for key in self.texts:
            tokens = observation[key][:, :count]
            seen[key] = tokens.reshape(len(tokens), *self._shape).to(self._dtype)
        return seen

    def of_critic(self, observation: Observation) -> dict[str, Tensor]:
        """The critic's part, its own texts and the last of the observations."""
        critic, seen = self.critic, {}
        for key in critic.spec.observations:
            if key in critic.codec.texts:
                tokens = observation[key][:, math.prod(self._shape) if key in self.texts else 0 :]
                like = critic.tokens([""])
                seen[key] = tokens.reshape(len(tokens), *like.shape[1:]).to(like.dtype)
            else:
                seen[key] = observation[key][:, -critic.obs_horizon :]
        return seen

    def bind(self, observation: Observation, n: int) -> Bound:
        """Values of n chunks for each of B observations."""
        return Bound(self, observation, n)


class Bound:
    """`Judge` for certain observations: rows are `[B * n]`."""

    def __init__(self, judge: Judge, observation: Observation, n: int) -> None:
        seen = judge.of_critic(observation)
        self.judge = judge
        self.state = judge.critic.state(seen).repeat_interleave(n, 0)
        self.seen = {key: value.repeat_interleave(n, 0) for key, value in seen.items()}
        ours = judge.of_policy(observation)
        self.ours = {key: value.repeat_interleave(n, 0) for key, value in ours.items()}

    def encode(self, code: Tensor) -> Tensor:
        """The policy's encoded chunks `[N, Tp, Dz]` as the critic sees them, `[N, H * Dz']`."""
        return self.of_actions(self.judge.codec.decode_action(code, self.ours))

    def of_actions(self, actions: Tensor) -> Tensor:
        """Chunks in the robot's units `[N, Tp, Da]` as the critic sees them, `[N, H * Dz']`."""
        return self.judge.critic.encode(actions[:, self.judge.rows], self.seen)

    def q(self, encoded: Tensor) -> Tensor:
        """Values `[N]` of chunks that are encoded for the critic."""
        return self.judge.critic.q(self.state, encoded)

    def __call__(self, x: Tensor) -> Tensor:
        """Values `[N]` of the policy's encoded chunks `[N, Tp, Dz]`."""
        return self.q(self.encode(x))


def judge_of(policy: Policy, path: str, critic: ActorCriticPolicy | None) -> Judge:
    """A judge from a critic, or from the checkpoint that holds one.

    Raises:
        ConfigError: neither is given.
    """
    if critic is None:
        if not path:
            raise ConfigError("Steering by values needs steer.critic=outputs/... of scripts/train_value.py.")
        critic = load_value(path, device=policy.device)
    return Judge(policy, critic)


@dataclass(frozen=True)
class Proposal:
    """K chunks for each of N = B * n that are wanted, and what they are worth."""

    made: Generation
    """As the policy made them, `[N * K, Tp, Dz]`."""
    code: Tensor
    """`[N, K, Tp, Dz]`; the first of each K has the request's noise."""
    values: Tensor
    """`[N, K]`."""
    seconds: float
    """That the policy took."""
    since: float
    """When it was ready, by `time.perf_counter`."""


class Judged(Steered):
    """What all steering by values has: a judge, a ledger of what it saw, and texts for both."""

    config: Any
    judge: Judge
    ledger: Ledger

    def sit(self, config: Any, critic: ActorCriticPolicy | None) -> None:
        """Put the critic, or that of the config's checkpoint, beside the wrapped policy."""
        self.config, self.ledger = config, Ledger()
        self.judge = judge_of(self.policy, config.critic, critic)
        self.judge.around(self)

    def propose(self, observation: dict[str, Tensor], request: Request, many: int) -> Proposal:
        """Chunks to choose from, with their values; their spread goes into the ledger.

        Raises:
            MissingCapability: the noise is given, which leaves nothing to choose from.
        """
        if request.deterministic:
            self.require("noise")
        started = time.perf_counter()
        batch, n = request.noise.shape[:2]
        made = candidates(self.policy, self.judge.of_policy(observation), request, many)
        ready = time.perf_counter()
        bound = self.judge.bind(observation, n * many)
        encoded = bound.encode(made.code)
        self.ledger.candidates(encoded.unflatten(0, (batch * n, many)), type(self.policy).__name__)
        code, values = made.code.unflatten(0, (batch * n, many)), bound.q(encoded).view(batch * n, many)
        return Proposal(made, code, values, ready - started, ready)

    def spent(self, proposal: Proposal) -> None:
        """Note the time of the policy, and of the values until now."""
        self.ledger.seconds(policy=proposal.seconds, values=time.perf_counter() - proposal.since)

    @classmethod
    def of(cls, policy: Policy, critic: ActorCriticPolicy, **settings: Any) -> Self:
        """``ValueGuided.of(policy, critic, candidates=16)``: settings are the fields of the config."""
        make: Any = cls
        made: Self = make(config_class(cls)(**settings), policy=policy, critic=critic)
        return made

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """The policy's and the critic's."""
        return self.judge.tokens(texts)
