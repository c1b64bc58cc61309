"""What a person may drive: an environment, or a robot behind its guard. Both in real time, both recorded.

A rig is told what to do from now on (`submit`) and then goes on by one policy step at a time (`step`).
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hardware.command_map import CommandMap
from hardware.link import ROWS
from hardware.messages import ActionChunk, Command
from hardware.observe import Observer
from hardware.record import LATENCIES, REASONS, EpisodeRecorder, EpisodeWriter, reason_bits
from hardware.session import Session
from robopolicy.env import RobotEnv, make_env
from robopolicy.spec import Spec
from robopolicy.task import Task

__all__ = ["EnvRig", "Rig", "RobotRig", "Seen"]

_SAMPLES = 64
_BEAT_S = 0.02
_VIEW_SIZE = 256


@dataclass(frozen=True)
class Seen:
    """How it is after a step."""

    observation: dict[str, np.ndarray]
    success: bool
    stopped: str = ""
    """Why the guard stopped the robot, if it did."""


class Rig(Protocol):
    """What a person drives."""

    spec: Spec
    writer: EpisodeWriter

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Begin an episode; its first observation."""
        ...

    def history(self, count: int) -> tuple[dict[str, np.ndarray], int]:
        """The newest observations `[1, count, ...]`, and the time of the last."""
        ...

    def submit(self, rows: np.ndarray, t_obs_ns: int) -> None:
        """From now on do this, `[T, Da]`, whose first row is for `t_obs_ns`."""
        ...

    def step(self, *, takeover: bool) -> Seen:
        """Go on by one policy step and record it."""
        ...

    def picture(self, camera: str) -> np.ndarray | None:
        """What a camera sees now, uint8 `[H, W, 3]`; None if it has not shown anything."""
        ...

    def finish(self) -> None:
        """The episode is over."""
        ...

    def judge(self, seed: int) -> bool | None:
        """A person's word for whether it succeeded; None where a simulation tells."""
        ...

    def close(self) -> None:
        """Stop everything."""
        ...


class EnvRig:
    """An environment in this process, slowed down to its own rate."""

    def __init__(self, task: Task, path: Path) -> None:
        self._env: RobotEnv = make_env(task)
        self.spec, self._task = self._env.robot_spec, task
        extra: dict[str, tuple[int, ...]] = {
            "sent": (self.spec.action.size,),
            "reasons": (),
            "latency": (len(LATENCIES),),
            "takeover": (),
        }
        origin = {"reasons": list(REASONS), "latency": list(LATENCIES)}
        self.writer = EpisodeWriter(path, self.spec, extra, task=task.to_dict(), origin=origin)
        self._dt = round(1e9 / self.spec.control_hz)
        self._low, self._high = np.array(self.spec.action.low), np.array(self.spec.action.high)
        self._seen: deque[dict[str, np.ndarray]] = deque(maxlen=_SAMPLES)

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Begin an episode."""
        first, _ = self._env.reset(seed=seed)
        self._seen.clear()
        self._seen.append(first)
        self._due = self._measured_at = time.monotonic_ns()
        return first

    def history(self, count: int) -> tuple[dict[str, np.ndarray], int]:
        """Observations of the last steps; the first stands in for what was before it."""
        seen = list(self._seen)[-count:]
        seen = [seen[0]] * (count - len(seen)) + seen
        return {key: np.stack([row[key] for row in seen])[None] for key in seen[0]}, self._measured_at

    def submit(self, rows: np.ndarray, t_obs_ns: int) -> None:
        """The simulation has waited: the first row is for the next step, however long choosing it took."""
        self._rows = deque(rows)
        self._chunk_age_s = 1e-9 * (time.monotonic_ns() - t_obs_ns)

    def step(self, *, takeover: bool) -> Seen:
        """Act at the next tick; a tick that was missed is not made up for."""
        asked = np.asarray(self._rows.popleft() if len(self._rows) > 1 else self._rows[0])
        self._due += self._dt
        time.sleep(max(0.0, 1e-9 * (self._due - time.monotonic_ns())))
        now = time.monotonic_ns()
        late = max(0, now - self._due)
        self._due = max(self._due, now - self._dt)
        before, sent = self._seen[-1], np.clip(asked, self._low, self._high)
        observation, _, failed, _, info = self._env.step(sent.astype(np.float32))
        row = {key: np.asarray(before[key]) for key in self.spec.observations}
        row["action"], row["sent"] = np.asarray(asked, np.float32), sent.astype(np.float64)
        reasons = () if np.allclose(sent, asked) else ("position",)
        row["reasons"] = np.asarray(reason_bits(reasons), np.float64)
        row["latency"] = np.array([1e-9 * (now - self._measured_at), self._chunk_age_s, 1e-9 * late])
        row["takeover"] = np.asarray(takeover, np.float64)
        self.writer.add(row)
        self._measured_at = time.monotonic_ns()
        self._seen.append(observation)
        return Seen(observation, bool(info["success"]), "the environment ended it" if failed else "")

    def picture(self, camera: str) -> np.ndarray | None:
        """Rendered here, which takes its time."""
        return self._env.render_frame(camera, _VIEW_SIZE)

    def finish(self) -> None:
        """Nothing moves between steps."""

    def judge(self, seed: int) -> bool | None:
        """The environment tells."""
        return None

    def close(self) -> None:
        """Free what draws."""
        self._env.close()


class RobotRig:
    """A robot: what is submitted becomes joint waypoints that the control process plays through the guard."""

    def __init__(self, session: Session, spec: Spec, path: Path, *, task: Task | None) -> None:
        self.session, self.spec = session, spec
        self._observer = Observer(session.robot, spec)
        self._map = CommandMap(session.robot, spec.action)
        self._recorder = EpisodeRecorder(
            path, spec, session.robot, task=None if task is None else task.to_dict(), extend=True
        )
        self.writer: EpisodeWriter = self._recorder
        self._dt = round(1e9 / spec.control_hz)

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Put the scene in order (an operator is asked to), arm, and observe."""
        self._observer.begin(time.monotonic_ns())
        self.session.reset(seed, wait_for=self._collect)
        self._observer.begin(time.monotonic_ns())
        self.session.solved()
        self._solved = False
        while self._collect():
            time.sleep(0.001)
        self._due = time.monotonic_ns()
        return self._observe()

    def history(self, count: int) -> tuple[dict[str, np.ndarray], int]:
        """What was measured, all of one time."""
        self._collect()
        found, t_ns = self._observer.observe(count, self._dt, time.monotonic_ns())
        return {key: value[None] for key, value in found.items()}, t_ns

    def submit(self, rows: np.ndarray, t_obs_ns: int) -> None:
        """Rows are for their times: one that comes late begins where it is by then."""
        q, dq = self._observer.joints(t_obs_ns)
        waypoints = self._map.waypoints(rows, q, dq=dq, dt_s=1e-9 * self._dt).rows
        chunk = ActionChunk(t_obs_ns=t_obs_ns, t0_ns=t_obs_ns, dt_ns=self._dt, actions=waypoints[:ROWS])
        self.session.link.submit(chunk)
        self._rows, self._begun = rows, t_obs_ns

    def step(self, *, takeover: bool) -> Seen:
        """Wait for the end of the step; steps that were missed are not made up for."""
        now = time.monotonic_ns()
        row = min(max(round((now - self._begun) / self._dt), 0), len(self._rows) - 1)
        before = self._latest
        self._due = max(self._due + self._dt, now)
        link = self.session.link
        while (left := 1e-9 * (self._due - time.monotonic_ns())) > 0:
            link.beat()
            time.sleep(min(left, _BEAT_S))
        tick = link.ticks()[-1]
        said = self.session.solved()
        self._solved = self._solved if said is None else said
        observation = self._observe()
        self._record(before, self._rows[row], tick, takeover)
        return Seen(observation, self._solved, str(tick["latched"]))

    def picture(self, camera: str) -> np.ndarray | None:
        """The newest of a stream."""
        newest = self.session.link.stream(camera)
        return newest[-1].value if newest else None

    def finish(self) -> None:
        """Brake and latch."""
        self.session.finish()

    def judge(self, seed: int) -> bool | None:
        """The operator's word at real robots."""
        return self.session.judge(seed)

    def close(self) -> None:
        """The session is closed by whoever opened it."""

    def _collect(self) -> list[str]:
        link = self.session.link
        streams = {name: link.stream(name, _SAMPLES) for name in self._observer.streams}
        self._observer.add(link.observe(_SAMPLES), streams)
        return self._observer.silent

    def _observe(self) -> dict[str, np.ndarray]:
        history, _ = self.history(1)
        self._latest = {key: value[0, 0] for key, value in history.items()}
        return self._latest

    def _record(self, seen: dict[str, np.ndarray], action: np.ndarray, tick: Any, takeover: bool) -> None:
        known = self.session.link.observe(_SAMPLES)
        measured = next((state for state in reversed(known) if state.seq <= tick["seq"]), known[0])
        gripper = None if np.isnan(tick["gripper"]) else float(tick["gripper"])
        sent = Command(
            t_ns=int(tick["t_ns"]), valid_until_ns=0, q=tick["q"], gripper=gripper, reasons=tick["reasons"]
        )
        age, late = 1e-9 * tick["chunk_age_ns"], 1e-9 * tick["late_ns"]
        self._recorder.step(seen, action, sent, measured, chunk_age_s=age, late_s=late, takeover=takeover)
