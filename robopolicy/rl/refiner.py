"""What every refinement method is: collect a little, learn a little, again."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from robopolicy.policies.policy import Policy
from robopolicy.rl.convention import ConventionConfig
from robopolicy.rl.practice import Practice
from robopolicy.vector import LaneVectorEnv

__all__ = ["Refiner"]


class Refiner(abc.ABC):
    """A method, one file: its mathematics only. The loop, seeds, evaluation and files are `rl/refine.py`'s.

    A subclass is registered as ``@register("method", name)`` and built with its frozen config and
    ``(policy, envs, seed, offset)``. The config has `convention`, with the method's published defaults.
    Everything random in an iteration derives from the seed and a counter in `state`, so resuming is exact.
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    """Capabilities the policy must have."""
    from_nothing: ClassVar[bool] = False
    """Whether nothing of the policy is refined: then what is measured at step 0 is no base."""

    def __init__(
        self,
        policy: Policy,
        envs: LaneVectorEnv,
        *,
        convention: ConventionConfig,
        seed: int,
        offset: int = 0,
    ) -> None:
        policy.require(*self.requires)
        policy.spec.require(envs.robot_spec)
        self.policy, self.seed = policy, seed
        self.practice = Practice(
            envs,
            convention,
            obs_horizon=policy.obs_horizon,
            action_horizon=policy.action_horizon,
            offset=offset,
        )

    @property
    def env_steps(self) -> int:
        """Environment steps taken so far, warm-up included."""
        return self.practice.env_steps

    @property
    def warming(self) -> bool:
        """Whether the next iteration still leaves the policy as it is (its steps count all the same)."""
        return False

    @abc.abstractmethod
    def advance(self) -> dict[str, float]:
        """One iteration: collect, update, and return what to log.

        Names that `rl/refine.py` knows: `seconds_env`, `seconds_sampling`, `seconds_update` (added up),
        those of `Practice.statistics`, and `clip_fraction` and `kl` for the progress line.
        """

    @abc.abstractmethod
    def refined(self) -> Policy:
        """The policy as it stands: a `Policy` that saves, loads, evaluates and serves like any other."""

    def initial(self) -> Policy:
        """What is measured at step 0: `refined()`, unless that begins away from the policy it refines."""
        return self.refined()

    @abc.abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Everything learned or stored (weights, optimisers, replay), by name."""

    @abc.abstractmethod
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Read back what `tensors` gave."""

    def state(self) -> dict[str, Any]:
        """Counters, JSON-ready."""
        return {"practice": self.practice.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Read back what `state` gave."""
        self.practice.restore(state["practice"])
