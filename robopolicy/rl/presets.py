"""The settings of `ActorCritic`, and the published methods as presets of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from robopolicy.errors import ConfigError, unknown
from robopolicy.registry import parse

__all__ = ["PRESETS", "ActorCriticConfig", "Aggregation", "learner_config"]

Aggregation = Literal["min", "mean", "first", "quantile", "subset_min"]


@dataclass(frozen=True, kw_only=True)
class ActorCriticConfig:
    """The defaults are SAC's (Haarnoja et al. 2018)."""

    hidden: tuple[int, ...] = (256, 256)
    layer_norm: bool = False
    critics: int = 2
    target: Aggregation = "min"
    """How the ensemble becomes one value in targets."""
    subset: int = 2
    """Members that subset_min looks at."""
    quantile: float = 0.25
    loss: Literal["mse", "huber"] = "mse"
    huber_delta: float = 1.0
    bootstrap: Literal["actor", "expectile"] = "actor"
    """Value of the next state: of the actor's action there, or a network fitted by expectile regression."""
    expectile: float = 0.7
    next_actions: int = 1
    """Actions tried at the next state; the best one counts."""
    entropy_backup: bool = True
    """The soft objective's targets count the entropy to come."""
    objective: Literal["soft", "deterministic", "awr", "weighted_mse"] = "soft"
    actor_value: Aggregation = "min"
    """How the ensemble becomes the value that the actor maximises."""
    beta: float = 3.0
    """Inverse temperature of advantage weights."""
    target_entropy: float | None = None
    """Of actions in (-1, 1), in nats; -Da when not given."""
    floor: bool = False
    """Targets are at least the data's own return from there (exact lower bounds in deterministic tasks)."""
    initial_temperature: float = 1.0
    target_noise: float = 0.2
    """The deterministic objective's targets disturb the next action by this, clipped at 2.5 times as much."""
    actor_every: int = 1
    """Critic updates for each of the actor."""
    constraint: Literal["none", "cloning", "conservative", "calibrated"] = "none"
    constraint_weight: float = 0.0
    constraint_actions: int = 10
    learning_rate: float = 3e-4
    actor_rate: float | None = None
    """The actor's and the temperature's own; a slower actor leaves the critics time to follow it."""
    tau: float = 0.005
    batch_size: int = 256
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the hidden layers while learning; weights, values and acting stay in float32."""

    def __post_init__(self) -> None:
        if min(self.critics, self.next_actions, self.actor_every, self.batch_size) < 1 or not self.hidden:
            raise ConfigError(
                "actor_critic needs a hidden layer and critics, next_actions, actor_every, batch_size >= 1."
            )
        if not 1 <= self.subset <= self.critics and "subset_min" in (self.target, self.actor_value):
            raise ConfigError(f"subset_min looks at subset={self.subset} of critics={self.critics} members.")
        if not (0 < self.tau <= 1 and 0 < self.expectile < 1 and 0 <= self.quantile <= 1):
            raise ConfigError(
                f"actor_critic needs 0 < tau <= 1, 0 < expectile < 1 and 0 <= quantile <= 1; got {self.tau}, "
                f"{self.expectile}, {self.quantile}."
            )
        if self.objective in ("awr", "weighted_mse") and self.bootstrap != "expectile":
            raise ConfigError(
                f"objective={self.objective} weighs by advantage, which needs bootstrap=expectile."
            )
        rates = (self.learning_rate, self.learning_rate if self.actor_rate is None else self.actor_rate)
        if self.initial_temperature <= 0 or min(rates) <= 0:
            raise ConfigError(
                "actor_critic needs initial_temperature > 0, learning_rate > 0 and actor_rate > 0 (or none)."
            )


PRESETS: dict[str, dict[str, Any]] = {
    "sac": {},
    "rlpd": {
        "layer_norm": True,
        "critics": 10,
        "target": "subset_min",
        "actor_value": "mean",
        "entropy_backup": False,
    },
    "iql": {"bootstrap": "expectile", "objective": "awr"},
    "riql": {
        "critics": 5,
        "target": "quantile",
        "loss": "huber",
        "bootstrap": "expectile",
        "objective": "weighted_mse",
    },
    "td3_bc": {
        "objective": "deterministic",
        "actor_value": "first",
        "actor_every": 2,
        "constraint": "cloning",
        "constraint_weight": 0.4,  # 1 / alpha for the published alpha = 2.5
    },
    "cal_ql": {
        "next_actions": 10,
        "entropy_backup": False,
        "constraint": "calibrated",
        "constraint_weight": 5.0,
    },
}


def learner_config(values: Mapping[str, Any]) -> ActorCriticConfig:
    """A preset, ``{"preset": "rlpd"}``, with whatever else is given changed in it."""
    changes = dict(values)
    name = changes.pop("preset", "sac")
    if name not in PRESETS:
        raise ConfigError(unknown("preset", name, PRESETS))
    return parse(ActorCriticConfig, {**PRESETS[name], **changes}, f"learner={name}")
