"""What the control process and the policy process share: rings in a run directory. Imports no driver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from hardware.chunks import PlayerConfig
from hardware.messages import ActionChunk, Measured, Observation
from hardware.ring import Ring
from hardware.robot import RobotError
from hardware.spec import LifeState, RobotSpec, StopMode
from robopolicy.registry import parse, plain

__all__ = [
    "BEAT_TYPE",
    "CONFIG",
    "ERROR_FILE",
    "REQUEST_TYPE",
    "ROWS",
    "STOP_FILE",
    "STREAMS",
    "RobotLink",
    "action_size",
    "chunk_of",
    "chunk_type",
    "default_directory",
    "fill_observation",
    "observation_type",
    "read_config",
    "request_of",
    "stream_type",
    "tick_of",
    "tick_type",
]

CONFIG, STOP_FILE, ERROR_FILE, STREAMS = "config.json", "STOP", "error.txt", "streams"
ROWS = 128
"""The longest chunk that fits, in rows."""
_REQUESTS = ("arm", "stop", "clear", "close")
_STOPS: tuple[StopMode, ...] = ("hold", "damp", "disable")
_NONE = -(2**62)


def action_size(spec: RobotSpec) -> int:
    """Da of the chunks that are played: joints, then the gripper if there is one."""
    return spec.size + (spec.gripper is not None)


def observation_type(spec: RobotSpec) -> np.dtype:
    """One observation."""
    joints = ("<f8", (spec.size,))
    head = [("seq", "<i8"), ("t_ns", "<i8"), ("t_src_ns", "<i8"), ("gripper", "<f8")]
    return np.dtype([*head, *((name, *joints) for name in ("q", "dq", "tau"))])


def stream_type(value: np.ndarray) -> np.dtype:
    """One sample of a stream whose values look like this one."""
    return np.dtype([("t_ns", "<i8"), ("value", value.dtype.str, value.shape)])


def chunk_type(spec: RobotSpec) -> np.dtype:
    """One chunk of up to `ROWS` rows."""
    head = [(name, "<i8") for name in ("t_obs_ns", "t0_ns", "dt_ns", "rows")]
    return np.dtype([*head, ("actions", "<f8", (ROWS, action_size(spec)))])


def tick_type(spec: RobotSpec) -> np.dtype:
    """What one tick of the control process did."""
    return np.dtype(
        [
            ("t_ns", "<i8"),
            ("state", "<i8"),
            ("seq", "<i8"),
            ("late_ns", "<i8"),
            ("missed", "<i8"),
            ("obs_age_ns", "<i8"),
            ("chunk_age_ns", "<i8"),
            ("starved", "<i8"),
            ("overlap", "<f8"),
            ("asked", "<f8", (action_size(spec),)),
            ("q", "<f8", (spec.size,)),
            ("dq", "<f8", (spec.size,)),
            ("gripper", "<f8"),
            ("reasons", "S128"),
            ("latched", "S128"),
            ("counters", "S1024"),
        ]
    )


BEAT_TYPE = np.dtype([("t_ns", "<i8")])
REQUEST_TYPE = np.dtype([("what", "<i8"), ("how", "<i8"), ("text", "S64"), ("ramp_s", "<f8")])


def default_directory() -> Path:
    """Memory that is a file, where the system has it."""
    shared = Path("/dev/shm")
    return shared if os.access(shared, os.W_OK) else Path(os.environ.get("TMPDIR", "/var/tmp"))


class RobotLink:
    """The policy's side: starts the control process and talks to it.

    Observing and submitting are the policy's signs of life; without one for `RobotSpec.policy_timeout_s` the
    control process stops the robot, whatever chunks it still has. A thread that beats by itself would hide a
    policy that hangs.
    """

    def __init__(
        self,
        spec: RobotSpec,
        directory: Path,
        *,
        player: PlayerConfig | None = None,
        connect_s: float = 10.0,
    ) -> None:
        self.spec, self.directory = spec, directory
        (directory / STREAMS).mkdir(parents=True, exist_ok=True)
        for leftover in (directory / STREAMS).iterdir():
            leftover.unlink()
        self._streams: dict[str, Ring] = {}
        for name in (STOP_FILE, ERROR_FILE):
            (directory / name).unlink(missing_ok=True)
        values = {"spec": spec.to_dict(), "player": plain(player or PlayerConfig()), "connect_s": connect_s}
        (directory / CONFIG).write_text(json.dumps(values))
        self._chunks = Ring.create(directory / "chunks", chunk_type(spec), 8)
        self._beats = Ring.create(directory / "beats", BEAT_TYPE, 4)
        self._requests = Ring.create(directory / "requests", REQUEST_TYPE, 16)
        self._observations = Ring.create(directory / "observations", observation_type(spec), 512)
        self._ticks = Ring.create(directory / "ticks", tick_type(spec), 1024)
        self._chunk = np.zeros((), chunk_type(spec))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hardware.runtime", str(directory)],
            start_new_session=True,  # for its priority, and against Ctrl-C
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._wait_for(LifeState.READ_ONLY, connect_s + 10.0)

    @property
    def pid(self) -> int:
        """The control process."""
        return self._process.pid

    def arm(self, timeout_s: float | None = None) -> None:
        """Take control of the robot; waits until it is running.

        Raises:
            RobotError: it was refused or stopped; with the reason.
        """
        self.beat()
        self._request("arm", ramp_s=self.spec.arm_ramp_s)
        self._wait_for(LifeState.RUNNING, timeout_s or self.spec.arm_ramp_s + 5.0, LifeState.HOLD)

    def stop(self, how: StopMode | None = None, reason: str = "stopped by the operator") -> None:
        """Stop and latch. Any process may do the same by creating the file STOP in the run directory."""
        self._request("stop", how or self.spec.stop, reason)

    def clear(self, operator: str, timeout_s: float = 2.0) -> None:
        """Leave a latched state, in the name of a person; `arm` follows.

        Raises:
            RobotError: it was refused.
        """
        (self.directory / STOP_FILE).unlink(missing_ok=True)
        self._request("clear", text=operator)
        self._wait_for(LifeState.READ_ONLY, timeout_s)

    def beat(self) -> None:
        """A sign of life without doing anything else."""
        record = np.zeros((), BEAT_TYPE)
        record["t_ns"] = time.monotonic_ns()
        self._beats.write(record)

    def observe(self, count: int = 1) -> list[Observation]:
        """The newest observations, oldest first; fewer than `count` if there are not so many."""
        self.beat()
        return [_observation(record) for record in self._observations.last(count)]

    def streams(self) -> tuple[str, ...]:
        """Names of the streams that have delivered something since connecting."""
        names = (path.name for path in (self.directory / STREAMS).iterdir())
        return tuple(sorted(name for name in names if not name.endswith(".partial")))

    def stream(self, name: str, count: int = 1) -> list[Measured]:
        """The newest samples of a stream, oldest first; none if it has not delivered anything."""
        path = self.directory / STREAMS / name
        if name not in self._streams:
            if not path.is_file():
                return []
            self._streams[name] = Ring.attach(path)
        return [Measured(int(record["t_ns"]), record["value"]) for record in self._streams[name].last(count)]

    def submit(self, chunk: ActionChunk) -> None:
        """Hand over a chunk of joint positions and gripper opening `[T, Da]`. The newest wins.

        Raises:
            RobotError: wrong shape.
        """
        rows, size = chunk.actions.shape
        if not 0 < rows <= ROWS or size != action_size(self.spec):
            raise RobotError(
                f"A chunk for {self.spec.name} is [1 to {ROWS}, {action_size(self.spec)}], "
                f"got {list(chunk.actions.shape)}."
            )
        record = self._chunk
        record["t_obs_ns"], record["t0_ns"], record["dt_ns"] = chunk.t_obs_ns, chunk.t0_ns, chunk.dt_ns
        record["rows"] = rows
        record["actions"][:rows] = chunk.actions
        self._chunks.write(record)
        self.beat()

    def ticks(self, count: int = 1) -> list[Mapping[str, Any]]:
        """What the newest ticks did, oldest first."""
        return [tick_of(record) for record in self._ticks.last(count)]

    @property
    def state(self) -> LifeState:
        """Where the robot is in its life, as of the last tick."""
        newest = self._ticks.newest()
        return LifeState(int(newest[1]["state"])) if newest else LifeState.DISCONNECTED

    def close(self, timeout_s: float = 10.0) -> None:
        """Stop the robot, disconnect and end the control process. Idempotent."""
        if self._process.poll() is None:
            self._request("close")
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.terminate()
                self._process.wait(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request(self, what: str, how: StopMode = "hold", text: str = "", ramp_s: float = 0.0) -> None:
        record = np.zeros((), REQUEST_TYPE)
        record["what"], record["how"] = _REQUESTS.index(what), _STOPS.index(how)
        record["text"], record["ramp_s"] = text.encode()[:64], ramp_s
        self._requests.write(record)

    def _wait_for(self, wanted: LifeState, timeout_s: float, also: LifeState | None = None) -> None:
        deadline, begun = time.monotonic() + timeout_s, self._ticks.written
        while True:
            self.beat()
            state = self.state
            tick = self.ticks()[-1] if self._ticks.written else None
            if self._ticks.written > begun and state in (wanted, also):
                return
            if self._process.poll() is not None or (self.directory / ERROR_FILE).exists():
                raise RobotError(self._error())
            latched = tick["latched"] if tick else ""
            if wanted is LifeState.RUNNING and latched:
                raise RobotError(f"{self.spec.name} was stopped: {latched}.")
            if time.monotonic() > deadline:
                raise RobotError(
                    f"{self.spec.name} is {state.name} and not {wanted.name} {timeout_s:g} s later."
                )
            time.sleep(0.005)

    def _error(self) -> str:
        path = self.directory / ERROR_FILE
        if path.exists():
            message = path.read_text()
            path.unlink()
            return message
        return f"The control process of {self.spec.name} ended with exit code {self._process.poll()}."


def read_config(directory: Path) -> tuple[RobotSpec, PlayerConfig, float]:
    """What `RobotLink` left for the control process."""
    values = json.loads((directory / CONFIG).read_text())
    return RobotSpec.from_dict(values["spec"]), parse(PlayerConfig, values["player"]), values["connect_s"]


def request_of(record: np.void) -> tuple[str, StopMode, str, float]:
    """What was asked, how to stop, the reason or operator, and how fast to arm."""
    text = bytes(record["text"]).decode(errors="replace")
    return _REQUESTS[int(record["what"])], _STOPS[int(record["how"])], text, float(record["ramp_s"])


def chunk_of(record: np.void) -> ActionChunk:
    """The chunk of a record."""
    rows = int(record["rows"])
    return ActionChunk(
        t_obs_ns=int(record["t_obs_ns"]),
        t0_ns=int(record["t0_ns"]),
        dt_ns=int(record["dt_ns"]),
        actions=record["actions"][: max(0, min(rows, ROWS))].copy(),
    )


def fill_observation(record: np.ndarray, observation: Observation) -> None:
    """Write an observation into a record."""
    record["seq"], record["t_ns"] = observation.seq, observation.t_ns
    record["t_src_ns"] = _NONE if observation.t_src_ns is None else observation.t_src_ns
    record["gripper"] = np.nan if observation.gripper is None else observation.gripper
    record["q"], record["dq"], record["tau"] = observation.q, observation.dq, observation.tau


def _observation(record: np.void) -> Observation:
    source, gripper = int(record["t_src_ns"]), float(record["gripper"])
    return Observation(
        seq=int(record["seq"]),
        t_ns=int(record["t_ns"]),
        t_src_ns=None if source == _NONE else source,
        gripper=None if np.isnan(gripper) else gripper,
        q=record["q"].copy(),
        dq=record["dq"].copy(),
        tau=record["tau"].copy(),
    )


def tick_of(record: np.void) -> Mapping[str, Any]:
    """A tick of the control process by the names of its fields, with states, reasons and counters read."""
    values: dict[str, Any] = {}
    for name in record.dtype.names or ():
        value = record[name]
        if isinstance(value, bytes):
            values[name] = value.decode(errors="replace")
        else:
            values[name] = value.copy() if value.ndim else value.item()
    values["state"] = LifeState(values["state"])
    values["reasons"] = tuple(filter(None, values["reasons"].split(",")))
    values["counters"] = json.loads(values["counters"] or "{}")
    return values
