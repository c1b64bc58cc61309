"""Running policies in environments: stacking observations, executing chunks, resetting lanes.

Alignment, everywhere in robopolicy: at time t a policy sees observations t-(To-1) .. t, predicts actions for
t-(To-1) .. t-(To-1)+Tp-1, and rows ``[To-1 : To-1+Ta]`` of that prediction are executed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from robopolicy.errors import ConfigError
from robopolicy.seeding import derive
from robopolicy.spec import Spec
from robopolicy.vector import ChunkStep, LaneVectorEnv, WorkerError

if TYPE_CHECKING:
    import torch

    from robopolicy.policies.policy import Policy

__all__ = [
    "MOST_LOSSES",
    "Actor",
    "ChunkRunner",
    "ChunkTransition",
    "Episode",
    "ExpertActor",
    "LaneView",
    "PolicyActor",
    "ReplayActor",
    "run_episodes",
]


MOST_LOSSES = 3
"""Runs of one episode that may end with the death of their worker process."""


@dataclass(frozen=True)
class LaneView:
    """What an actor sees of B lanes before a chunk."""

    observation: dict[str, np.ndarray]
    """`[B, To, ...]`."""
    seeds: np.ndarray
    """Episode seed of each lane, int64 `[B]`."""
    time: np.ndarray
    """Steps already executed in each lane's episode, int64 `[B]`."""
    instruction: str = ""
    """The task's."""
    executed: np.ndarray | None = None
    """Actions of the To-1 steps before this one, `[B, To-1, Da]`, NaN before an episode's first step; None
    where nobody knows."""


class Actor(Protocol):
    """Chooses the next chunk for every lane."""

    spec: Spec | None
    """What it needs of the environments; None if it takes any."""
    obs_horizon: int
    action_horizon: int

    def act(self, view: LaneView) -> np.ndarray | None:
        """Actions `[B, Ta, Da]`, or None to let each environment's scripted expert act."""
        ...


@dataclass(frozen=True)
class ChunkTransition:
    """One chunk in B lanes, as reinforcement learning wants it."""

    observation: dict[str, np.ndarray]
    """`[B, To, ...]` before the chunk."""
    next_observation: dict[str, np.ndarray]
    """`[B, To, ...]` after it: the final one where an episode ended, the old one where it was lost."""
    step: ChunkStep


class ChunkRunner:
    """B lanes with stacked observations, stepped a chunk at a time; the caller resets finished lanes."""

    def __init__(self, envs: LaneVectorEnv, *, obs_horizon: int, action_horizon: int) -> None:
        if action_horizon > envs.chunk:
            raise ConfigError(f"action_horizon {action_horizon} exceeds the environments' {envs.chunk}.")
        self.envs, self.obs_horizon, self.action_horizon = envs, obs_horizon, action_horizon
        self.observation: dict[str, np.ndarray] = {}
        shape = (envs.num_envs, obs_horizon - 1, envs.robot_spec.action.size)
        self.executed = np.full(shape, np.nan, np.float32)
        self.seeds = np.full(envs.num_envs, -1, np.int64)
        self.time = np.zeros(envs.num_envs, np.int64)

    def reset(self, mask: np.ndarray, seeds: np.ndarray) -> None:
        """Start new episodes in the masked lanes; their first observation fills the whole history."""
        first, _ = self.envs.reset(seed=seeds.tolist(), options={"reset_mask": mask})
        fresh = {}  # the present history belongs to the last transition, so it stays as it is
        for key, value in first.items():
            fresh[key] = np.repeat(value[:, None], self.obs_horizon, axis=1)
            if key in self.observation:
                fresh[key][~mask] = self.observation[key][~mask]
        self.observation = fresh
        self.executed = np.where(mask[:, None, None], np.float32(np.nan), self.executed)
        self.seeds = np.where(mask, seeds, self.seeds)
        self.time = np.where(mask, 0, self.time)

    @property
    def view(self) -> LaneView:
        """What an actor may see now."""
        return LaneView(self.observation, self.seeds, self.time, self.envs.task.instruction, self.executed)

    def step(self, chunk: np.ndarray | None, active: np.ndarray | None = None) -> ChunkTransition:
        """Execute a chunk `[B, Ta, Da]` (None: the scripted experts act)."""
        step = self.envs.step_chunk(chunk, length=self.action_horizon, active=active)
        before, after = self.observation, {}
        # Row r of the new history is entry steps+r of (old history, new observations).
        rows = step.steps[:, None] + np.arange(self.obs_horizon)
        lanes = np.arange(self.envs.num_envs)[:, None]
        for key, old in before.items():
            joined = np.concatenate([old, step.observations[key]], axis=1)
            after[key] = joined[lanes, rows]
        self.executed = np.concatenate([self.executed, step.actions], axis=1)[lanes, rows[:, :-1]]
        self.observation, self.time = after, self.time + step.steps
        return ChunkTransition(observation=before, next_observation=after, step=step)


@dataclass
class Episode:
    """One finished episode."""

    index: int
    seed: int
    steps: int = 0
    success: bool = False
    """At any step."""
    success_final: bool = False
    """At the last step (which comes `success_hold` steps after the first success)."""
    total_reward: float = 0.0
    first_success: int = -1
    data: dict[str, np.ndarray] = field(default_factory=dict)
    """Observations before each action `[T, ...]`, "action" `[T, Da]`, "reward" `[T]` and "success" `[T]`
    after it, where recorded."""


def run_episodes(
    envs: LaneVectorEnv,
    actor: Actor,
    seeds: Sequence[int],
    *,
    record: bool = False,
    stop: Callable[[Episode], bool] | None = None,
) -> Iterator[Episode]:
    """Run one episode for each seed and yield them as they finish.

    The policy's batch is always B, and which lane plays which episode depends only on earlier episodes'
    lengths, so results do not depend on the number of worker processes.

    An episode that is lost with its worker process is run again from its start; where that would not help
    (an imagination that diverged) it ends there, failed.

    Args:
        record: keep each episode's arrays.
        stop: called with every finished episode; True stops handing out new ones.

    Raises:
        SpecMismatch: the environments lack what the actor needs.
        WorkerError: an episode was lost again and again.
    """
    if actor.spec is not None:
        actor.spec.require(envs.robot_spec)
    runner = ChunkRunner(envs, obs_horizon=actor.obs_horizon, action_horizon=actor.action_horizon)
    current: list[Episode | None] = [None] * envs.num_envs
    parts: list[list[dict[str, np.ndarray]]] = [[] for _ in current]
    waiting = iter(enumerate(seeds))
    again: list[tuple[int, int]] = []
    losses: Counter[int] = Counter()
    stopped = False
    while True:
        fresh = np.zeros(envs.num_envs, bool)
        lane_seeds = np.maximum(runner.seeds, 0)
        for lane in range(envs.num_envs):
            entry = None
            if current[lane] is None:
                entry = again.pop() if again else None if stopped else next(waiting, None)
            if entry is not None:
                current[lane] = Episode(index=entry[0], seed=entry[1])
                fresh[lane], lane_seeds[lane] = True, entry[1]
        if not runner.observation:
            runner.reset(np.ones_like(fresh), np.where(fresh, lane_seeds, lane_seeds.max()))
        elif fresh.any():
            runner.reset(fresh, lane_seeds)
        active = np.array([episode is not None for episode in current])
        if not active.any():
            return
        transition = runner.step(actor.act(runner.view), active)
        step = transition.step
        for lane in np.flatnonzero(active):
            episode, count = current[lane], int(step.steps[lane])
            assert episode is not None
            if step.lost[lane] and not envs.loses_for_good:
                losses[episode.index] += 1
                if losses[episode.index] >= MOST_LOSSES:
                    raise WorkerError(
                        f"Episode seed {episode.seed} of task {envs.task.name} was lost {MOST_LOSSES} times: "
                        "the worker process that ran it, and perhaps other lanes, died."
                    )
                again.append((episode.index, episode.seed))
                current[lane], parts[lane] = None, []
                continue
            success = step.success[lane, :count]
            if success.any() and not episode.success:
                episode.success = True
                episode.first_success = episode.steps + int(np.argmax(success)) + 1
            episode.success_final = bool(count and success[-1])
            episode.total_reward += float(step.rewards[lane, :count].sum())
            episode.steps += count
            if record and count:
                parts[lane].append(_rows(transition, lane, count))
            if step.terminated[lane] or step.truncated[lane] or step.lost[lane]:
                if record and parts[lane]:
                    episode.data = {k: np.concatenate([p[k] for p in parts[lane]]) for k in parts[lane][0]}
                    parts[lane] = []
                current[lane] = None
                if stop is not None and stop(episode):
                    stopped = True
                yield episode


def _rows(transition: ChunkTransition, lane: int, count: int) -> dict[str, np.ndarray]:
    rows = {}
    for key, after in transition.step.observations.items():
        now = transition.observation[key][lane, -1:]
        rows[key] = np.concatenate([now, after[lane, : count - 1]])
    rows["action"] = transition.step.actions[lane, :count]
    rows["reward"] = transition.step.rewards[lane, :count].astype(np.float32)
    rows["success"] = transition.step.success[lane, :count].astype(np.float32)
    return rows


class ExpertActor:
    """The scripted expert of each environment, acting inside its worker."""

    obs_horizon = 1
    spec: Spec | None = None

    def __init__(self, action_horizon: int = 16) -> None:
        self.action_horizon = action_horizon

    def act(self, view: LaneView) -> None:
        """None: the environments' own experts act."""


class ReplayActor:
    """Actions of recorded episodes, found by their seeds (zero once an episode's recording ends)."""

    obs_horizon = 1
    spec: Spec | None = None

    def __init__(self, actions: dict[int, np.ndarray], action_horizon: int = 8) -> None:
        self.actions, self.action_horizon = actions, action_horizon

    def act(self, view: LaneView) -> np.ndarray:
        """`[B, Ta, Da]`."""
        size = next(iter(self.actions.values())).shape[1]
        chunk = np.zeros((len(view.seeds), self.action_horizon, size), np.float32)
        for lane, (seed, time) in enumerate(zip(view.seeds.tolist(), view.time.tolist(), strict=True)):
            rows = self.actions[seed][time : time + self.action_horizon]
            chunk[lane, : len(rows)] = rows
        return chunk


class PolicyActor:
    """A policy with one random generator per lane, seeded by the lane's episode; its texts are the task's.

    Args:
        repetition: other numbers give other noise in the same episodes.
    """

    def __init__(self, policy: Policy, action_horizon: int | None = None, repetition: int = 0) -> None:
        self.policy = policy
        self._texts = [key for key, o in policy.spec.observations.items() if o.kind == "text"]
        self.spec: Spec | None = policy.spec
        self._purpose = f"noise {repetition}" if repetition else "noise"
        self.obs_horizon = policy.obs_horizon
        self.action_horizon = action_horizon or policy.action_horizon
        if self.obs_horizon - 1 + self.action_horizon > policy.pred_horizon:
            raise ConfigError(
                f"action_horizon {self.action_horizon} needs pred_horizon >= obs_horizon - 1 + action_horizon"
                f" = {self.obs_horizon - 1 + self.action_horizon}, the policy has {policy.pred_horizon}."
            )
        if policy.planner is not None and self.action_horizon != 1:
            raise ConfigError(
                f"{type(policy).__name__} corrects every action from what is seen then: action_horizon must "
                f"be 1, got {self.action_horizon}. How long its base's chunk is used is the base's "
                f"({policy.planner.action_horizon})."
            )
        self.calls: list[np.ndarray] = []
        """Network evaluations of chunks that end by themselves, `[B]` for each time that it was asked."""
        self._generators: list[torch.Generator] = []
        self._plan, self._made = np.zeros((0, 1, 1), np.float32), np.zeros(0, np.int64)

    def act(self, view: LaneView) -> np.ndarray:
        """The executed rows of one sample, `[B, Ta, Da]`; of a policy with a planner `[B, 1, Da]`."""
        import torch

        while len(self._generators) < len(view.seeds):
            self._generators.append(torch.Generator(self.policy.device))
        for lane in np.flatnonzero(view.time == 0):
            self._generators[lane].manual_seed(derive(int(view.seeds[lane]), self._purpose))
        observation: dict[str, Any] = {
            key: [view.instruction] * len(view.seeds) if key in self._texts else view.observation[key]
            for key in self.policy.spec.observations
        }
        if self.policy.planner is not None:
            planned = self._planned(self.policy.planner, view, observation)
            return np.asarray(self.policy.adjust(observation, planned).cpu(), np.float32)[:, None]
        chunk = self._sampled(self.policy, np.arange(len(view.seeds)), view, observation)
        return chunk[:, : self.action_horizon]

    def _sampled(
        self, policy: Policy, lanes: np.ndarray, view: LaneView, observation: dict[str, Any]
    ) -> np.ndarray:
        """The rows of a sample from now on, for some lanes."""
        generators = [self._generators[lane] for lane in lanes]
        executed = None if view.executed is None else view.executed[lanes]
        sample = policy.sample(observation, generator=generators, executed=executed)
        if sample.own_calls is not None:
            self.calls.append(np.asarray(sample.own_calls[:, 0]))
        return np.asarray(sample.actions[:, 0, self.obs_horizon - 1 :], np.float32)

    def _planned(self, planner: Policy, view: LaneView, observation: dict[str, Any]) -> np.ndarray:
        """Each lane's action `[B, Da]` of the planner's chunk, which is asked anew once that is used up."""
        count, horizon = len(view.seeds), planner.action_horizon
        if len(self._made) != count:
            self._made = np.full(count, -horizon)
            self._plan = np.zeros((count, horizon, planner.spec.action.size), np.float32)
        row = view.time - self._made
        lanes = np.flatnonzero((view.time == 0) | (row < 0) | (row >= horizon))
        if len(lanes):
            asked = {
                key: [value[lane] for lane in lanes] if key in self._texts else value[lanes]
                for key, value in observation.items()
            }
            self._plan[lanes] = self._sampled(planner, lanes, view, asked)[:, :horizon]
            self._made[lanes] = view.time[lanes]
        return self._plan[np.arange(count), view.time - self._made]
