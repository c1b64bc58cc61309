"""Practising: lanes that run for ever on practice seeds, and what became of their episodes."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robopolicy.errors import CheckpointError
from robopolicy.learning.nan_guard import NotFiniteError
from robopolicy.rl.convention import ConventionConfig, rewards
from robopolicy.rollout import ChunkRunner, ChunkTransition, LaneView
from robopolicy.seeding import BLOCK_SIZE, episode_seeds
from robopolicy.vector import LaneVectorEnv

__all__ = ["Experience", "Practice"]


@dataclass(frozen=True)
class Experience:
    """One chunk in every lane."""

    transition: ChunkTransition
    """Its `next_observation` is the final one where an episode ended."""
    rewards: np.ndarray
    """Of every executed step under the convention, float32 `[B, Ta]`."""

    @property
    def steps(self) -> np.ndarray:
        """Environment steps executed, int64 `[B]`; 0 where `lost`."""
        return self.transition.step.steps

    @property
    def lost(self) -> np.ndarray:
        """Lanes whose worker process died, bool `[B]`: nothing happened there, learn nothing from it."""
        return self.transition.step.lost


class Practice:
    """Steps chunks and starts a new episode, on the next practice seed, wherever one ended.

    An episode is fixed by its seed and its actions, so that is all a checkpoint keeps of those under way.

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
        self.first_seed = self.next_seed = offset
        self.env_steps = 0
        self.lost_episodes = 0
        lanes = envs.num_envs
        self._return, self._success = np.zeros(lanes), np.zeros(lanes, bool)
        self._played: list[list[np.ndarray]] = [[] for _ in range(lanes)]
        self._finished: list[tuple[float, float, float]] = []
        self._restart(np.ones(lanes, bool))

    @property
    def view(self) -> LaneView:
        """What the policy may see now."""
        return self.runner.view

    @property
    def used_seeds(self) -> list[int]:
        """Every episode seed practised on so far."""
        return _seeds(self.first_seed, min(self.next_seed - self.first_seed, BLOCK_SIZE))

    def step(self, chunk: np.ndarray) -> Experience:
        """Execute a chunk `[B, Ta, Da]` in every lane.

        Raises:
            NotFiniteError: a reward is not finite; names the episode.
        """
        experience = self._execute(chunk)
        step = experience.transition.step
        self.env_steps += int(step.steps.sum())
        self.lost_episodes += int(step.lost.sum())
        ended = step.terminated | step.truncated
        for lane in np.flatnonzero(ended):
            length = float(self.runner.time[lane])
            self._finished.append((float(self._return[lane]), float(self._success[lane]), length))
        self._restart(ended | step.lost)
        return experience

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
            "lost_episodes": float(self.lost_episodes),
        }

    def state(self) -> dict[str, Any]:
        """What resuming needs, JSON-ready; call it between two steps."""
        return {
            "first_seed": self.first_seed,
            "next_seed": self.next_seed,
            "env_steps": self.env_steps,
            "lost_episodes": self.lost_episodes,
            "finished": self._finished,
            "seeds": self.runner.seeds.tolist(),
            "played": [_pack(actions) for actions in self._played],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state` was taken: the episodes under way are played again up to there.

        Raises:
            CheckpointError: another number of lanes, or an environment that does not repeat itself.
        """
        lanes = self.envs.num_envs
        if len(state["seeds"]) != lanes:
            raise CheckpointError(
                f"The run practised in {len(state['seeds'])} lanes; lanes={lanes} cannot resume it."
            )
        self.first_seed, self.next_seed = int(state["first_seed"]), int(state["next_seed"])
        self.env_steps, self.lost_episodes = int(state["env_steps"]), int(state["lost_episodes"])
        self._begin(np.ones(lanes, bool), np.asarray(state["seeds"], np.int64))
        size = self.envs.robot_spec.action.size
        episodes = [_unpack(text, size) for text in state["played"]]
        length = max(map(len, episodes))
        for t in range(length):
            active = np.array([len(actions) > t for actions in episodes])
            chunk = np.zeros((lanes, 1, size), np.float32)
            for lane in np.flatnonzero(active):
                chunk[lane, 0] = episodes[lane][t]
            step = self._execute(chunk, active).transition.step
            if (step.terminated | step.truncated | step.lost).any():
                raise CheckpointError(
                    f"An episode of task {self.envs.task.name} ended while it was played again up to the "
                    "checkpoint: the environment does not repeat itself."
                )
        self._finished = [(row[0], row[1], row[2]) for row in state["finished"]]

    def _execute(self, chunk: np.ndarray, active: np.ndarray | None = None) -> Experience:
        transition = self.runner.step(chunk, active)
        step = transition.step
        paid = rewards(step, self.convention)
        if not np.isfinite(paid).all():
            lane = int(np.flatnonzero(~np.isfinite(paid).all(1))[0])
            raise NotFiniteError(
                f"A reward of task {self.envs.task.name} is not finite: episode seed "
                f"{self.runner.seeds[lane]}, one of the {step.steps[lane]} steps before step "
                f"{self.runner.time[lane]}. The last checkpoint is untouched."
            )
        executed = np.arange(step.success.shape[1]) < step.steps[:, None]
        self._return += paid.sum(1, dtype=np.float64)
        self._success |= (step.success & executed).any(1)
        for lane, actions in enumerate(self._played):
            actions.append(step.actions[lane, : step.steps[lane]])
        return Experience(transition, paid)

    def _restart(self, mask: np.ndarray) -> None:
        count = int(mask.sum())
        if not count:
            return
        seeds = np.maximum(self.runner.seeds, 0)
        seeds[mask] = _seeds(self.next_seed, count)
        self.next_seed += count
        self._begin(mask, seeds)

    def _begin(self, mask: np.ndarray, seeds: np.ndarray) -> None:
        self.runner.reset(mask, seeds)
        self._return[mask], self._success[mask] = 0.0, False
        for lane in np.flatnonzero(mask):
            self._played[lane] = []


def _seeds(first: int, count: int) -> list[int]:
    """Practice seeds from the `first`-th on; after the last one of the block comes the first."""
    begin = first % BLOCK_SIZE
    before = min(count, BLOCK_SIZE - begin)
    return episode_seeds("practice", before, begin) + episode_seeds("practice", count - before)


def _pack(actions: list[np.ndarray]) -> str:
    joined = np.concatenate(actions).astype("<f4") if actions else np.zeros(0, "<f4")
    return base64.b64encode(joined.tobytes()).decode()


def _unpack(text: str, size: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(-1, size)
