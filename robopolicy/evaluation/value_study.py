"""What values are worth to a policy, with every control: what ``scripts/value_study.py`` runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robopolicy.errors import ConfigError, unknown
from robopolicy.evaluation.compare import compared
from robopolicy.evaluation.evaluate import evaluate
from robopolicy.evaluation.machine import stamp
from robopolicy.evaluation.value_rank import agreement_within, moments, tried
from robopolicy.registry import plain
from robopolicy.rollout import PolicyActor
from robopolicy.seeding import episode_seeds, refuse_overlap
from robopolicy.vector import LaneVectorEnv

if TYPE_CHECKING:
    from robopolicy.steering.value_guided import Rule

__all__ = ["RULES", "ValueStudyConfig", "run_study"]


RULES: dict[str, Rule] = {"random": "random", "softmax": "softmax", "greedy": "argmax"}


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
    """Of choosing, beside the policy alone."""
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
            if way not in RULES:
                raise ConfigError(unknown("way of choosing", way, RULES))


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
    from robopolicy.steering.value_guided import ValueGuided
    from robopolicy.values.train import value_settings

    device = choose_device(config.device)
    policy, critic = load(config.checkpoint, device=device), load_value(config.critic, device=device)
    task = policy.provenance.task
    if task is None:
        raise ConfigError(f"{config.checkpoint} has no task to try it on.")
    judge = Judge(policy, critic)
    used = {*policy.provenance.used_seeds, *critic.provenance.used_seeds}
    settings = value_settings(critic)
    found: dict[str, Any] = {"config": plain(config), "task": task.name, "value": plain(settings)}
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
        measured, ledgers = {}, {}
        for name in ("policy", *config.ways):
            steered = policy
            if name != "policy":
                steered = ValueGuided.of(
                    policy, critic, candidates=config.candidates, beta=config.beta, rule=RULES[name]
                )
            measured[name] = evaluate(
                PolicyActor(steered), task, episodes=config.episodes, block=config.block,
                offset=config.offset, lanes=config.lanes, workers=config.workers, used_seeds=used,
            )  # fmt: skip
            if isinstance(steered, ValueGuided):
                ledgers[name] = steered.ledger.report()
        found["steered"] = compared(measured)
        found["ledgers"] = ledgers
    found |= stamp()
    path = Path(config.out) / f"values_{task.name}_{config.name or settings.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    return path, found
