"""From a configuration to whose episodes are collected: what ``scripts/collect.py`` asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robopolicy.errors import ConfigError, unknown
from robopolicy.evaluation.baselines import BASELINES, ExploringActor, baseline_in
from robopolicy.evaluation.collect import BASELINE_OFFSET, POLICY_OFFSET
from robopolicy.rollout import Actor, PolicyActor
from robopolicy.task import Task

__all__ = ["CollectConfig", "Recorded", "recorded"]


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """The root of ``configs/collect.yaml``."""

    task: Mapping[str, Any] | None = None
    checkpoint: str | None = None
    """Record this policy, failures included, instead of the expert; the task is then its own by default."""
    policy: Mapping[str, Any] | None = None
    """Or one that learned nothing: zero, random."""
    noise: float = 0.0
    """Added to a checkpoint's actions, up to this deviation in half their range: `ExploringActor`."""
    episodes: int = 200
    out: str | None = None
    """Store to fill; ``data/<task>.zarr`` by default, ``data/<task>_policy.zarr`` with a checkpoint and
    ``data/<task>_random.zarr`` with policy=random."""
    lanes: int = 8
    workers: int = 2
    offset: int | None = None
    """First seed within the block of collection seeds: 0 by default, 500,000 with a checkpoint, 900,000 with
    policy=random."""
    device: str = "auto"
    max_attempts: float = 3.0
    """Give up after this many attempts for every episode wanted."""

    def __post_init__(self) -> None:
        if self.policy is not None and self.checkpoint is not None:
            raise ConfigError("Give either checkpoint=outputs/... or policy=random, not both.")
        if self.policy is not None and self.policy["name"] not in BASELINES:
            hint = " A trained policy is given by its checkpoint=outputs/..."
            raise ConfigError(unknown("policy to record", self.policy["name"], BASELINES) + hint)
        if self.noise and self.checkpoint is None:
            raise ConfigError("noise is of a checkpoint's actions; an expert's is +task.expert.noise=...")


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """Whose episodes are collected."""

    task: Task
    actor: Actor | None
    """None for the task's expert."""
    origin: str = ""
    """What the store says of it."""
    suffix: str = ""
    """Of the store's name."""
    offset: int = 0
    """Of its first seed within the block of collection seeds."""


def recorded(config: CollectConfig) -> Recorded:
    """Who acts as configured.

    Raises:
        ConfigError: there is no task.
    """
    task = None if config.task is None else Task.from_dict(config.task)
    if config.checkpoint is not None:
        from robopolicy.device import choose_device
        from robopolicy.learning.checkpoint import load

        policy = load(config.checkpoint, device=choose_device(config.device))
        task = task or policy.provenance.task
    if task is None:
        raise ConfigError("Give task=... (see --help for the choices).")
    if config.checkpoint is not None:
        actor: Actor = PolicyActor(policy)
        origin = config.checkpoint
        if config.noise:
            actor = ExploringActor(actor, policy.spec.action, config.noise)
            origin += f", noise up to {config.noise:g}"
        return Recorded(task=task, actor=actor, origin=origin, suffix="_policy", offset=POLICY_OFFSET)
    if config.policy is None:
        return Recorded(task=task, actor=None)
    name = str(config.policy["name"])
    return Recorded(
        task=task, actor=baseline_in(task, name), origin=name, suffix=f"_{name}", offset=BASELINE_OFFSET
    )
