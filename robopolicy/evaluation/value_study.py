"""What values are worth to a policy, with every control: what ``scripts/value_study.py`` runs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from robopolicy.errors import ConfigError, unknown
from robopolicy.evaluation.compare import compared
from robopolicy.evaluation.cost import sampling_cost
from robopolicy.evaluation.evaluate import Evaluation, evaluate
from robopolicy.evaluation.machine import stamp
from robopolicy.evaluation.value_rank import agreement_within, moments, oracle, tried
from robopolicy.registry import plain
from robopolicy.rollout import PolicyActor
from robopolicy.seeding import episode_seeds, refuse_overlap
from robopolicy.vector import LaneVectorEnv

if TYPE_CHECKING:
    from robopolicy.policies.actor_critic import ActorCriticPolicy
    from robopolicy.policies.policy import Policy
    from robopolicy.steering.judge import Judged
    from robopolicy.steering.value_guided import Rule

__all__ = ["RULES", "WAYS", "ValueStudyConfig", "run_study"]


RULES: dict[str, Rule] = {"random": "random", "softmax": "softmax", "greedy": "argmax"}
"""Of choosing among candidates."""
WAYS = (*RULES, "gradient", "closed_form", "oracle")


@dataclass(frozen=True, kw_only=True)
class ValueStudyConfig:
    """The root of ``configs/value_study.yaml``."""

    checkpoint: str
    """The policy that is steered."""
    critic: str
    """Run of scripts/train_value.py."""
    candidates: int = 16
    beta: float = 1.0
    states: int = 30
    """Whose candidates are tried out; 0 leaves the ranks out."""
    tried: int = 8
    """Candidates of each."""
    rollouts: int = 2
    """Of each candidate."""
    ways: tuple[str, ...] = ("random", "softmax", "greedy")
    """Of choosing or improving, beside the policy alone; ``oracle`` tries out candidates in simulation."""
    strength: float = 0.1
    """Of ``ways=[gradient]``."""
    tau: float = 0.1
    """Of ``ways=[closed_form]``."""
    sampler: Mapping[str, Any] | None = None
    """Instead of the policy's."""
    episodes: int = 100
    """Of each; 0 leaves them out."""
    block: str = "select"
    offset: int = 0
    lanes: int = 10
    workers: int = 2
    out: str = "results/checks"
    name: str = ""
    """Of the result file, after the task's; the critic's own by default."""
    device: str = "auto"

    def __post_init__(self) -> None:
        if min(self.states, self.episodes, self.workers) < 0 or not self.states + self.episodes:
            raise ConfigError("value_study needs states or episodes, and workers >= 0.")
        if min(self.tried, self.candidates) < 2 or min(self.rollouts, self.lanes) < 1:
            raise ConfigError("value_study needs tried, candidates >= 2 and rollouts, lanes >= 1.")
        for way in self.ways:
            if way not in WAYS:
                raise ConfigError(unknown("way of choosing", way, WAYS))


def run_study(config: ValueStudyConfig) -> tuple[Path, dict[str, Any]]:
    """Ranks within states, and success of the policy alone, of any, of the likeliest best and of the best.

    Raises:
        ConfigError: the checkpoint has no task.
        DataError: report seeds were used for training either of the two.
    """
    from robopolicy.device import choose_device
    from robopolicy.learning.checkpoint import load
    from robopolicy.policies.actor_critic import load_value
    from robopolicy.steering.judge import Judge
    from robopolicy.values.train import value_settings

    device = choose_device(config.device)
    policy, critic = load(config.checkpoint, device=device), load_value(config.critic, device=device)
    if config.sampler is not None:
        policy = policy.with_sampler(config.sampler)
    task = policy.provenance.task
    if task is None:
        raise ConfigError(f"{config.checkpoint} has no task to try it on.")
    judge = Judge(policy, critic)
    used = {*policy.provenance.used_seeds, *critic.provenance.used_seeds}
    settings = value_settings(critic)
    found: dict[str, Any] = {"config": plain(config), "task": task.name, "value": plain(settings)}
    learned = critic.provenance.config
    found["learned"] = {key: learned.get(key) for key in ("seed", "steps", "corrupt")}
    if config.states:
        seeds = episode_seeds(config.block, config.states, config.offset)
        if config.block == "report":
            refuse_overlap(seeds, used, "training the policy or the values")
        envs = LaneVectorEnv(task, config.lanes, workers=config.workers, chunk=policy.action_horizon)
        try:
            states = moments(policy, judge, envs, seeds, config.tried)
            earned = tried(policy, envs, states, rollouts=config.rollouts, gamma=settings.gamma)
        finally:
            envs.close()
        found["ranks"] = agreement_within(np.stack([state.q for state in states]), earned)
    if config.episodes:
        measured: dict[str, Evaluation] = {}
        ledgers, costs = {}, {}
        for name in ("policy", *config.ways):
            if name == "oracle":
                measured[name] = _tried_out(policy, measured["policy"], config)
                continue
            steered = policy if name == "policy" else _steered(name, config, policy, critic)
            measured[name] = evaluate(
                PolicyActor(steered), task, episodes=config.episodes, block=config.block,
                offset=config.offset, lanes=config.lanes, workers=config.workers, used_seeds=used,
            )  # fmt: skip
            if name != "policy":
                ledgers[name] = cast("Judged", steered).ledger.report()
            costs[name] = sampling_cost(steered)
        found["steered"], found["ledgers"], found["cost"] = compared(measured), ledgers, costs
    found |= stamp()
    path = Path(config.out) / f"values_{task.name}_{config.name or settings.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    return path, found


def _tried_out(policy: Policy, alone: Evaluation, config: ValueStudyConfig) -> Evaluation:
    """The episodes of `alone` where candidates are played out in simulation."""
    started = time.perf_counter()
    envs = LaneVectorEnv(alone.task, config.lanes, workers=config.workers, chunk=policy.action_horizon)
    try:
        firsts = oracle(policy, envs, [row.seed for row in alone.rows], candidates=config.candidates)
    finally:
        envs.close()
    rows = tuple(
        replace(row, success=first > 0, success_final=first > 0, first_success=first or -1)
        for row, first in zip(alone.rows, firsts, strict=True)
    )
    return replace(alone, rows=rows, wall_seconds=time.perf_counter() - started)


def _steered(way: str, config: ValueStudyConfig, policy: Policy, critic: ActorCriticPolicy) -> Policy:
    from robopolicy.steering.value_closed_form import ValueClosedForm
    from robopolicy.steering.value_gradient import ValueGradient
    from robopolicy.steering.value_guided import ValueGuided

    if way == "gradient":
        return ValueGradient.of(policy, critic, strength=config.strength)
    if way == "closed_form":
        return ValueClosedForm.of(policy, critic, candidates=config.candidates, tau=config.tau)
    return ValueGuided.of(policy, critic, candidates=config.candidates, beta=config.beta, rule=RULES[way])
