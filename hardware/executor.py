"""The policy's side of the loop: observe, ask the policy, hand its chunk to the control process.

Every row of a chunk is for a time: row i for ``t_obs + i dt``. So a chunk that comes late is not played from
its beginning but from where it is by then (latency matching, UMI). `mode` says what is made of the chunks:

chunks: the newest wins, every `replan_steps`.
ensemble: the mean of all that speak of a time (ACT), asked for every step.
rtc: as chunks, each sampled so that it continues the one before (real-time chunking).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from hardware.chunks import TemporalEnsemble
from hardware.command_map import CommandMap
from hardware.latency import LatencyEstimator
from hardware.link import ROWS, RobotLink, action_size
from hardware.messages import ActionChunk
from hardware.observe import Observer
from hardware.rtc import prefix_weights
from robopolicy.errors import ConfigError
from robopolicy.rollout import Actor, LaneView

__all__ = ["Continuing", "Executor", "ExecutorConfig", "Plan"]

_SAMPLES = 64


class Continuing(Actor, Protocol):
    """An actor whose chunks can continue the last one."""

    def continue_from(
        self, view: LaneView, last: np.ndarray, elapsed: float, weigh: Callable[[int], np.ndarray]
    ) -> np.ndarray:
        """See `robopolicy.policies.continuation.ContinuingActor`."""
        ...


@dataclass(frozen=True, kw_only=True)
class ExecutorConfig:
    """How chunks are asked for and used."""

    mode: Literal["chunks", "ensemble", "rtc"] = "chunks"
    latency_matching: bool = True
    """False: the newest measurements count as now, and a chunk begins when it arrives."""
    replan_steps: int = 0
    """Policy steps between two chunks; 0: what the policy was made for, with ensemble every step."""
    delay_s: float = 0.0
    """Chunks are held back this long, as by a slow network to a remote policy."""
    ensemble_m: float = 0.01

    def __post_init__(self) -> None:
        if self.replan_steps < 0 or not 0 <= self.delay_s < 2:
            raise ConfigError(
                f"executor: replan_steps >= 0 and delay_s in [0, 2) are needed, got {self.replan_steps}, "
                f"{self.delay_s}."
            )


@dataclass(frozen=True, slots=True)
class Plan:
    """One chunk of the policy, as it was understood."""

    t_obs_ns: int
    """When its first row is to be reached, whenever it arrived."""
    actions: np.ndarray
    """`[T, Da]`, from the observation's time on."""
    observation: dict[str, np.ndarray]
    """`[1, To, ...]`."""
    inference_s: float
    position_error: float
    """m, the worst that inverse kinematics left."""

    def row(self, t_ns: int, dt_ns: int) -> np.ndarray:
        """The action for a time `[Da]`: the nearest row."""
        index = round((t_ns - self.t_obs_ns) / dt_ns)
        return self.actions[min(max(index, 0), len(self.actions) - 1)]


class Executor:
    """One policy on one robot.

    Args:
        actor: returns all rows that it can predict from the observation on.
        replan: policy steps between two chunks that the policy was made for.
        instruction: for policies that read one.
    """

    def __init__(
        self,
        actor: Actor,
        link: RobotLink,
        observer: Observer,
        command_map: CommandMap,
        config: ExecutorConfig,
        *,
        replan: int,
        instruction: str = "",
    ) -> None:
        if actor.spec is None:
            raise ConfigError("An executor needs an actor with a spec.")
        if config.mode == "rtc" and not hasattr(actor, "continue_from"):
            raise ConfigError(f"mode=rtc needs an actor that continues chunks, not {type(actor).__name__}.")
        self.actor, self.link, self.observer, self.map = actor, link, observer, command_map
        self.config, self.instruction = config, instruction
        self.dt_ns = round(1e9 / actor.spec.control_hz)
        steps = config.replan_steps or (1 if config.mode == "ensemble" else replan)
        self._replan_ns = steps * self.dt_ns
        self.latency = LatencyEstimator()
        self.begin(seed=0)

    def begin(self, seed: int) -> None:
        """An episode begins: nothing from before counts."""
        now = time.monotonic_ns()
        self.observer.begin(now)
        self._seed, self._begun, self._due = seed, now, now
        self.plan: Plan | None = None
        self._played: list[tuple[int, int, np.ndarray]] = []
        self._ensemble = TemporalEnsemble(action_size(self.link.spec), m=self.config.ensemble_m)

    def collect(self) -> list[str]:
        """Take in what was measured meanwhile; streams that have not delivered anything yet."""
        observer = self.observer
        streams = {name: self.link.stream(name, _SAMPLES) for name in observer.streams}
        observer.add(self.link.observe(_SAMPLES), streams)
        return observer.silent

    @property
    def due(self) -> bool:
        """Whether the next chunk should be asked for."""
        return time.monotonic_ns() >= self._due

    def step(self) -> Plan:
        """Observe, ask, submit.

        Raises:
            DataError: a stream has not delivered anything.
        """
        config, begun = self.config, time.monotonic_ns()
        self.collect()
        history, t_obs = self.observer.observe(self.actor.obs_horizon, self.dt_ns, begun)
        observation = {key: value[None] for key, value in history.items()}
        steps = 0 if self.plan is None else max(1, round((t_obs - self._begun) / self.dt_ns))
        view = LaneView(
            observation, np.array([self._seed]), np.array([steps]), self.instruction, self._executed(t_obs)
        )
        actions = self._ask(view, t_obs)
        if config.delay_s:
            time.sleep(config.delay_s)
        now = time.monotonic_ns()
        self.latency.add(1e-9 * (now - begun))
        first = t_obs if config.latency_matching else now
        start = first + round(1e9 * self.map.config.lag_s)
        q, dq = self.observer.joints(t_obs)
        waypoints = self.map.waypoints(actions, q, dq=dq, dt_s=1e-9 * self.dt_ns)
        chunk = ActionChunk(t_obs_ns=t_obs, t0_ns=start, dt_ns=self.dt_ns, actions=waypoints.rows[:ROWS])
        if config.mode == "ensemble":
            chunk = self._together(chunk, now)
        if len(chunk.actions):
            self.link.submit(chunk)
            oldest = t_obs - self.actor.obs_horizon * self.dt_ns
            # The newest of those that are older than that is still played at that time.
            keep = max(0, sum(since <= oldest for since, _, _ in self._played) - 1)
            self._played = [*self._played[keep:], (now, first, actions)]
        self._due = max(self._due + self._replan_ns, now)
        self.plan = Plan(
            t_obs_ns=t_obs,
            actions=actions,
            observation=observation,
            inference_s=1e-9 * (now - begun),
            position_error=float(waypoints.position_error.max()),
        )
        return self.plan

    def _executed(self, t_obs: int) -> np.ndarray | None:
        """Actions for the To-1 steps before an observation, `[1, To-1, Da]`; NaN before the first chunk.

        None where chunks are averaged: what is then executed is no policy's.
        """
        spec = self.actor.spec
        assert spec is not None
        if self.config.mode == "ensemble":
            return None
        past = self.actor.obs_horizon - 1
        rows = np.full((1, past, spec.action.size), np.nan, np.float32)
        for row in range(past):
            t_ns = t_obs - (past - row) * self.dt_ns
            for since, first, actions in self._played:  # the last that had arrived by then
                if since <= t_ns:
                    index = round((t_ns - first) / self.dt_ns)
                    rows[0, row] = actions[min(max(index, 0), len(actions) - 1)]
        return rows

    def _ask(self, view: LaneView, t_obs: int) -> np.ndarray:
        plan = self.plan
        if plan is None or self.config.mode != "rtc":
            actions = self.actor.act(view)
            assert actions is not None
            return actions[0]
        actor: Continuing = self.actor  # type: ignore[assignment]
        elapsed = max(0.0, (t_obs - plan.t_obs_ns) / self.dt_ns)
        past = self.actor.obs_horizon - 1
        # The rows that will have been played when this chunk arrives are given.
        late_ns = time.monotonic_ns() - t_obs + round(1e9 * self.latency.seconds)
        horizon = past + self.actor.action_horizon

        def weigh(covered: int) -> np.ndarray:
            executed = min(past + max(0, -(-late_ns // self.dt_ns)), covered)
            return prefix_weights(horizon, executed, covered)

        return actor.continue_from(view, plan.actions, elapsed, weigh)[0]

    def _together(self, chunk: ActionChunk, now: int) -> ActionChunk:
        self._ensemble.submit(chunk, now)
        first = max(chunk.t0_ns, now)
        rows = self._ensemble.rows(first, chunk.dt_ns)[:ROWS]
        return ActionChunk(t_obs_ns=chunk.t_obs_ns, t0_ns=first, dt_ns=chunk.dt_ns, actions=rows)
