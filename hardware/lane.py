"""A robot as a vector of one environment: evaluation, DSRL and recording run on it as on a simulator.

    with Session(spec, directory, config) as session:
        lane = RobotLane(session, task, policy.spec)
        evaluate(PolicyActor(policy), task, envs=lane, episodes=20)

A chunk is handed to the control process at once and played in real time; the robot holds at its end until
the next one comes, so a slow policy, or an update between two chunks, costs time and nothing else. An episode
that the guard stops is truncated, never terminated: what the policy did is no reason why the world ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector.utils import batch_space

from hardware.command_map import CommandMap
from hardware.link import action_size
from hardware.messages import ActionChunk, Command
from hardware.observe import Observer
from hardware.record import EpisodeRecorder, reason_bits
from hardware.session import Session
from robopolicy.errors import ConfigError
from robopolicy.spec import Spec
from robopolicy.task import Task
from robopolicy.vector import ChunkStep, LaneVectorEnv

__all__ = ["RobotChunkStep", "RobotLane"]

_SAMPLES = 64
_BEAT_S = 0.02


@dataclass(frozen=True)
class RobotChunkStep(ChunkStep):
    """A chunk on a robot; `actions` are what was asked."""

    sent: np.ndarray
    """Joint positions and the gripper's opening that went out by each step's end `[1, Ta, n (+ 1)]`."""
    reasons: np.ndarray
    """Why that differs, as `hardware.record.reason_bits`, int64 `[1, Ta]`."""
    stopped: str = ""
    """Why the guard stopped the robot, if it did."""


class RobotLane(LaneVectorEnv):
    """One robot behind its guard, in the place of simulated lanes.

    Args:
        spec: of the policy: what is observed and asked.
        reward: of an observation after a step and whether the task is solved; 1 for success by default.
        recorder: gets every step.
    """

    def __init__(
        self,
        session: Session,
        task: Task,
        spec: Spec,
        *,
        chunk: int = 16,
        reward: Callable[[dict[str, np.ndarray], bool], float] = lambda observation, solved: float(solved),
        recorder: EpisodeRecorder | None = None,
    ) -> None:
        self.session, self.task, self.robot_spec, self.chunk = session, task, spec, chunk
        self.num_envs, self.workers = 1, 0
        self.single_observation_space, self.single_action_space = _spaces(spec)
        self.observation_space = batch_space(self.single_observation_space, 1)
        self.action_space = batch_space(self.single_action_space, 1)
        self._observer = Observer(session.robot, spec)
        self._map = CommandMap(session.robot, spec.action)
        self._dt_ns = round(1e9 / spec.control_hz)
        self._reward, self._recorder = reward, recorder
        self._clock, self._due, self._seed = 0, 0, 0
        self._first_success: int | None = None
        self._solved = False

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Put the scene in order (an operator is asked to), arm, and observe.

        Raises:
            RobotError: the robot cannot be armed.
        """
        if not np.asarray((options or {}).get("reset_mask", [True])).all():
            return {key: value[None] for key, value in self._latest.items()}, {}
        seeds = [0] if seed is None else [seed] if isinstance(seed, int) else list(seed)
        if len(seeds) != 1:
            raise ConfigError(f"A robot is one lane; got {len(seeds)} seeds.")
        if self._recorder is not None:
            self._recorder.discard()  # an episode that nobody finished
        self._seed, self._clock, self._first_success = int(seeds[0]), 0, None
        self._observer.begin(time.monotonic_ns())
        self.session.reset(self._seed, wait_for=self._collect)
        self._begin()
        return {key: value[None] for key, value in self._latest.items()}, {}

    def step_chunk(
        self, actions: np.ndarray | None, *, length: int | None = None, active: np.ndarray | None = None
    ) -> RobotChunkStep:
        """Play a chunk `[1, Ta, Da]` in real time; a step ends one policy period after its action was due.

        Raises:
            ConfigError: another shape, numbers that are not finite, or nobody to act.
        """
        if actions is None:
            raise ConfigError("A robot has no scripted expert.")
        rows = np.asarray(actions, np.float64)[0]
        if rows.shape != (len(rows), self.robot_spec.action.size) or not 1 <= len(rows) <= self.chunk:
            wanted = f"[1, 1 to {self.chunk}, {self.robot_spec.action.size}]"
            raise ConfigError(f"step_chunk wants {wanted} actions, got {list(np.shape(actions))}.")
        if not np.isfinite(rows).all():
            raise ConfigError(f"An action for {self.session.robot.name} is not finite.")
        found = _Steps(self.robot_spec, len(rows), action_size(self.session.robot))
        if active is None or bool(np.asarray(active)[0]):
            self._play(rows, found)
        return found.chunk_step(rows)

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the robot; the session stays open."""
        self.session.finish()

    def _begin(self) -> None:
        now = time.monotonic_ns()
        self._observer.begin(now)
        self.session.solved()
        self._solved = False
        while self._collect():
            time.sleep(0.001)
        self._observe()
        self._due = time.monotonic_ns()

    def _collect(self) -> list[str]:
        link = self.session.link
        streams = {name: link.stream(name, _SAMPLES) for name in self._observer.streams}
        self._observer.add(link.observe(_SAMPLES), streams)
        return self._observer.silent

    def _observe(self) -> None:
        self._collect()
        history, _ = self._observer.observe(1, self._dt_ns, time.monotonic_ns())
        self._latest = {key: value[0] for key, value in history.items()}

    def _play(self, rows: np.ndarray, found: _Steps) -> None:
        link, dt = self.session.link, self._dt_ns
        now = time.monotonic_ns()
        # In time, a chunk goes on from the last one; after a pause it begins now.
        start = self._due if now - self._due < dt else now
        self._collect()
        state = link.observe()[-1]
        waypoints = self._map.waypoints(rows, state.q, dq=state.dq, dt_s=1e-9 * dt).rows
        shown = start + round(1e9 * self._map.config.lag_s)
        link.submit(ActionChunk(t_obs_ns=now, t0_ns=shown, dt_ns=dt, actions=waypoints))
        for index in range(len(rows)):
            seen = self._latest
            self._wait_until(start + (index + 1) * dt)
            tick = link.ticks()[-1]
            self._observe()
            stopped = str(tick["latched"])
            said = self.session.solved()  # only what is new: simulations speak more rarely than we step
            self._solved = self._solved if said is None else said
            solved = self._solved and not stopped
            self._clock += 1
            if solved and self._first_success is None:
                self._first_success = self._clock
            first = self._first_success
            held = first is not None and self._clock - first >= self.task.success_hold
            over = bool(stopped) or self._clock >= self.task.horizon
            if over and not held and not stopped and first is None:
                solved = bool(self.session.judge(self._seed))
            reward = self._reward(self._latest, solved)
            found.add(index, self._latest, reward, solved, tick)
            self._record(seen, rows[index], tick)
            if held or over:
                found.end(terminated=held and not stopped, stopped=stopped)
                self._finish(solved or first is not None)
                break
        self._due = start + found.count * dt

    def _wait_until(self, t_ns: int) -> None:
        while (left := 1e-9 * (t_ns - time.monotonic_ns())) > 0:
            self.session.link.beat()
            time.sleep(min(left, _BEAT_S))

    def _record(self, seen: dict[str, np.ndarray], action: np.ndarray, tick: Any) -> None:
        if self._recorder is None:
            return
        sent = Command(
            t_ns=int(tick["t_ns"]),
            valid_until_ns=0,
            q=tick["q"],
            gripper=None if np.isnan(tick["gripper"]) else float(tick["gripper"]),
            reasons=tick["reasons"],
        )
        measured = self.session.link.observe()[-1]
        age, late = 1e-9 * tick["chunk_age_ns"], 1e-9 * tick["late_ns"]
        self._recorder.step(seen, action, sent, measured, chunk_age_s=age, late_s=late)

    def _finish(self, success: bool) -> None:
        self.session.finish()
        if self._recorder is not None:
            self._recorder.commit(seed=self._seed, success=success, instruction=self.task.instruction)


def _spaces(spec: Spec) -> tuple[gymnasium.spaces.Dict, gymnasium.spaces.Box]:
    observations: dict[str, gymnasium.Space[Any]] = {}
    for key, wanted in spec.observations.items():
        if wanted.kind != "text":
            low, high = (0, 255) if wanted.kind == "image" else (-np.inf, np.inf)
            observations[key] = gymnasium.spaces.Box(low, high, wanted.shape, np.dtype(wanted.dtype).type)
    bounds = np.array([spec.action.low, spec.action.high], np.float32)
    return gymnasium.spaces.Dict(observations), gymnasium.spaces.Box(bounds[0], bounds[1], dtype=np.float32)


class _Steps:
    """A chunk's arrays as they fill."""

    def __init__(self, spec: Spec, length: int, size: int) -> None:
        self.observations = {
            key: np.zeros((1, length, *wanted.shape), wanted.dtype)
            for key, wanted in spec.observations.items()
            if wanted.kind != "text"
        }
        self.rewards, self.success = np.zeros((1, length)), np.zeros((1, length), bool)
        self.sent, self.reasons = np.zeros((1, length, size)), np.zeros((1, length), np.int64)
        self.count, self.terminated, self.truncated, self.stopped = 0, False, False, ""

    def add(
        self, index: int, observation: dict[str, np.ndarray], reward: float, solved: bool, tick: Any
    ) -> None:
        for key, value in observation.items():
            self.observations[key][0, index] = value
        self.rewards[0, index], self.success[0, index] = reward, solved
        sent = np.append(tick["q"], tick["gripper"])[: self.sent.shape[2]]
        self.sent[0, index] = np.nan_to_num(sent, nan=0.0)
        self.reasons[0, index] = reason_bits(tick["reasons"])
        self.count = index + 1

    def end(self, *, terminated: bool, stopped: str) -> None:
        self.terminated, self.truncated, self.stopped = terminated, not terminated, stopped

    def chunk_step(self, rows: np.ndarray) -> RobotChunkStep:
        return RobotChunkStep(
            observations=self.observations,
            actions=rows[None].astype(np.float32),
            rewards=self.rewards,
            success=self.success,
            steps=np.array([self.count]),
            terminated=np.array([self.terminated]),
            truncated=np.array([self.truncated]),
            lost=np.zeros(1, bool),
            sent=self.sent,
            reasons=self.reasons,
            stopped=self.stopped,
        )
