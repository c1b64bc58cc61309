"""Practising: lanes that run for ever on practice seeds, and what became of their episodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robopolicy.rl.convention import ConventionConfig, rewards
from robopolicy.rollout import ChunkRunner, ChunkTransition, LaneView
from robopolicy.seeding import episode_seeds
from robopolicy.vector import LaneVectorEnv


@dataclass(frozen=True)
class Experience:
    """One chunk in every lane."""

    transition: ChunkTransition
    """Its `next_observation` is the final one where an episode ended."""
    rewards: np.ndarray
    """Of every executed step under the convention, float32 `[B, Ta]`."""

    @property
    def steps(self) -> np.ndarray:
        """Environment steps executed, int64 `[B]`."""
        return self.transition.step.steps


class Practice:
    """Steps chunks and starts a new episode, on the next practice seed, wherever one ended.

    Args:
        offset: first practice seed used, counted within the block (runs that share one should not overlap).
    """

    def __init__(
        self,
        envs: LaneVectorEnv,
        convention: ConventionConfig,
        *,
        obs_horizon: int,
        action_horizon: int,
        offset: int = 0,
    ) -> None:
        self.envs, self.convention = envs, convention
        self.runner = ChunkRunner(envs, obs_horizon=obs_horizon, action_horizon=action_horizon)
        self.next_seed = offset
        self.env_steps = 0
        lanes = envs.num_envs
        self._return, self._success = np.zeros(lanes), np.zeros(lanes, bool)
        self._finished: list[tuple[float, float, float]] = []
        self._restart(np.ones(lanes, bool))

    @property
    def view(self) -> LaneView:
        """What the policy may see now."""
        return self.runner.view

    def step(self, chunk: np.ndarray) -> Experience:
        """Execute a chunk `[B, Ta, Da]` in every lane."""
        transition = self.runner.step(chunk)
        step = transition.step
        paid = rewards(step, self.convention)
        executed = np.arange(step.success.shape[1]) < step.steps[:, None]
        self._return += paid.sum(1)
        self._success |= (step.success & executed).any(1)
        self.env_steps += int(step.steps.sum())
        ended = step.terminated | step.truncated
        for lane in np.flatnonzero(ended):
            length = float(self.runner.time[lane])
            self._finished.append((float(self._return[lane]), float(self._success[lane]), length))
        self._restart(ended)
        return Experience(transition, paid)

    def statistics(self) -> dict[str, float]:
        """Means over the episodes that ended since the last call (empty if none did)."""
        if not self._finished:
            return {}
        values = np.asarray(self._finished).mean(0)
        count = len(self._finished)
        self._finished = []
        return {
            "practice_return": float(values[0]),
            "practice_success": float(values[1]),
            "practice_length": float(values[2]),
            "practice_episodes": float(count),
        }

    def state(self) -> dict[str, Any]:
        """What resuming needs; lanes start new episodes then, and those under way are dropped."""
        return {"next_seed": self.next_seed, "env_steps": self.env_steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, with new episodes in every lane."""
        self.next_seed, self.env_steps = int(state["next_seed"]), int(state["env_steps"])
        self._restart(np.ones(self.envs.num_envs, bool))

    def _restart(self, mask: np.ndarray) -> None:
        count = int(mask.sum())
        if not count:
            return
        seeds = np.maximum(self.runner.seeds, 0)
        seeds[mask] = episode_seeds("practice", count, self.next_seed)
        self.next_seed += count
        self.runner.reset(mask, seeds)
        self._return[mask], self._success[mask] = 0.0, False
