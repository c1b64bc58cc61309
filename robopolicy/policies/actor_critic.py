"""What offline actor-critic learning leaves: values of chunks, and an actor that is a policy of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from robopolicy.codecs import Codec
from robopolicy.errors import CheckpointError, ConfigError
from robopolicy.networks.critic import CriticEnsemble, SquashedGaussian
from robopolicy.policies.conditioned import ConditionedPolicy
from robopolicy.policies.policy import Generation, Request
from robopolicy.registry import register
from robopolicy.rl import losses
from robopolicy.rl.presets import ActorCriticConfig
from robopolicy.spec import Spec

__all__ = ["ActorCriticPolicy", "ActorCriticPolicyConfig", "load_value"]


@dataclass(frozen=True, kw_only=True)
class ActorCriticPolicyConfig:
    """Networks are the learner's."""

    encoder: Mapping[str, Any] = field(default_factory=lambda: {"name": "state"})
    obs_horizon: int = 1
    action_horizon: int = 8
    """H: actions that one value is of, and that the actor decides at a time; 1 for single actions."""
    learner: ActorCriticConfig = field(default_factory=ActorCriticConfig)

    @property
    def horizons(self) -> dict[str, int]:
        """By name, as `Policy` wants them."""
        return {
            "obs_horizon": self.obs_horizon,
            "pred_horizon": self.obs_horizon - 1 + self.action_horizon,
            "action_horizon": self.action_horizon,
        }


@register("policy", "actor_critic")
class ActorCriticPolicy(ConditionedPolicy):
    """Acts by the mean of its actor; `q` is what steers other policies.

    States and actions are in its own codec, whose encoded actions lie in [-1, 1]; actions beyond are clipped,
    in training as in use.
    """

    capabilities = frozenset()

    def __init__(self, config: ActorCriticPolicyConfig, *, spec: Spec, codec: Codec) -> None:
        if codec.config.action not in ("minmax", "quantile"):
            raise ConfigError(
                f"actor_critic needs encoded actions in [-1, 1]: codec.action=minmax or quantile, "
                f"got {codec.config.action}."
            )
        super().__init__(config, spec=spec, codec=codec)
        learner = config.learner
        self.state_size = config.obs_horizon * self.encoder.size
        self.flat_size = config.action_horizon * codec.action_size
        """H * Dz, what is valued at a time."""
        layers: dict[str, Any] = {"hidden": learner.hidden, "layer_norm": learner.layer_norm}
        self.actor = SquashedGaussian(self.state_size, self.flat_size, **layers)
        self.critic = CriticEnsemble(learner.critics, self.state_size + self.flat_size, **layers)
        """The slow one."""
        self.value = CriticEnsemble(1, self.state_size, **layers)

    def state(self, observation: Mapping[str, Tensor]) -> Tensor:
        """`[B, Ds]` from raw observations `[B, To, ...]`."""
        return self.condition(observation).flatten(1)

    def encode(self, actions: Tensor, observation: Mapping[str, Tensor]) -> Tensor:
        """Actions `[N, Tp, Da]` in the robot's units to what the critics see, `[N, H * Dz]` in [-1, 1].

        Rows are times t-(To-1) .. t+H-1; those of the past are what delta actions are relative to.
        """
        code = self.codec.encode_action(actions, observation)
        return code[:, self.obs_horizon - 1 :].clamp(-1, 1).flatten(1).float()

    def q(self, state: Tensor, encoded: Tensor) -> Tensor:
        """Values `[N]` of states `[N, Ds]` and encoded chunks `[N, H * Dz]`, as the targets saw them."""
        values, learner = self.critic(state, encoded), self.config.learner
        if learner.target == "quantile":
            return losses.quantile(values, learner.quantile)
        return {"mean": losses.mean, "first": losses.first}.get(learner.target, losses.smallest)(values)

    def generate(self, observation: dict[str, Tensor], request: Request) -> Generation:
        """The actor's mean; rows of the past repeat the first one decided."""
        squashed = self.actor(self.state(observation))[0].tanh()
        decided = squashed.unflatten(-1, (self.action_horizon, -1))
        past = decided[:, :1].expand(-1, self.obs_horizon - 1, -1)
        return Generation(code=torch.cat([past, decided], 1).repeat_interleave(request.noise.shape[1], 0))


def load_value(path: str, *, device: str | torch.device = "cpu") -> ActorCriticPolicy:
    """The values in a checkpoint of ``scripts/train_value.py``.

    Raises:
        CheckpointError: there is none, or it is another kind of policy.
    """
    from robopolicy.learning.checkpoint import load

    found = load(path, device=device)
    if not isinstance(found, ActorCriticPolicy):
        raise CheckpointError(
            f"{path} holds a policy ({found.registered_name}) without values. scripts/train_value.py trains "
            "some."
        )
    return found
