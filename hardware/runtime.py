"""The control process: it owns the robot, plays chunks through the guard, and watches the policy.

    python -m hardware.runtime RUN_DIRECTORY     # started by RobotLink

Every tick has an absolute deadline. Each command is valid until the policy's last sign of life plus its
timeout, so a policy that is killed, stopped or stalled makes the next command stale, and the guard stops the
robot. The process outlives the policy's: it ends when it is told to, or when the policy's process is gone and
the robot rests.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType

import numpy as np

from hardware.chunks import ChunkPlayer, Playing
from hardware.link import (
    ERROR_FILE,
    STOP_FILE,
    STREAMS,
    action_size,
    chunk_of,
    fill_observation,
    observation_type,
    read_config,
    request_of,
    stream_type,
    tick_type,
)
from hardware.messages import Command, Measured, Observation
from hardware.priority import go_first
from hardware.ring import Ring
from hardware.robot import Robot, RobotError, make_robot
from hardware.spec import LifeState
from robopolicy.errors import RobopolicyError

__all__ = ["ControlLoop", "main", "serve"]

_NICE = -10
_LINGER_S = 3.0
_COUNTERS_NS = 200_000_000
_STREAM_BYTES = 16 * 2**20
_STREAM_SLOTS = 256
_ARMED = (LifeState.RUNNING, LifeState.HOLD, LifeState.DAMPED, LifeState.FAULT)


class ControlLoop:
    """Ticks a robot against the rings of a run directory."""

    def __init__(self, robot: Robot, player: ChunkPlayer, directory: Path) -> None:
        self.robot, self.player, self.spec = robot, player, robot.spec
        self._chunks = Ring.attach(directory / "chunks")
        self._beats = Ring.attach(directory / "beats")
        self._requests = Ring.attach(directory / "requests")
        self._observations = Ring.attach(directory / "observations")
        self._ticks = Ring.attach(directory / "ticks")
        self._directory = directory / STREAMS
        self._streams: dict[str, tuple[Ring, np.ndarray]] = {}
        self._stop_file, self._error_file = str(directory / STOP_FILE), directory / ERROR_FILE
        self._observation = np.zeros((), observation_type(self.spec))
        self._tick = np.zeros((), tick_type(self.spec))
        self._chunks_seen = self._requests_seen = self._last_seq = 0
        self._standing: np.ndarray | None = None
        self._counters_at = 0
        self.closing = False
        self.missed = 0

    def run(self) -> None:
        """Tick until asked to close, or until the policy's process is gone and the robot has been stopped."""
        period, parent = self.spec.period_ns, os.getppid()
        deadline, orphaned = time.monotonic_ns(), 0
        while not self.closing:
            now = time.monotonic_ns()
            late = now - deadline
            if late > period:
                self.missed += late // period
                deadline += (late // period) * period
            self.tick(late)
            if os.getppid() != parent:
                orphaned = orphaned or now
                if now - orphaned > 1e9 * (self.spec.policy_timeout_s + _LINGER_S):
                    return
            deadline += period
            time.sleep(max(0.0, 1e-9 * (deadline - time.monotonic_ns())))

    def tick(self, late: int = 0) -> None:
        """Requests, newest chunk, one command, what was done."""
        self._answer_requests()
        now = time.monotonic_ns()  # arming took time
        if self.robot.state in _ARMED:
            self._drive(now, late)
        else:
            observation = self.robot.read()
            self._publish(observation)
            self._record(now, late, observation, None, None)

    def _drive(self, now: int, late: int) -> None:
        self._take_chunk(now)
        playing = self.player.sample(now)
        beat = self._beats.newest()
        alive_until = (int(beat[1]["t_ns"]) if beat else 0) + round(1e9 * self.spec.policy_timeout_s)
        command = Command(t_ns=now, valid_until_ns=alive_until)
        if playing is not None:
            command.q, command.dq = playing.value[: self.spec.size], playing.rate[: self.spec.size]
            command.gripper = float(playing.value[-1]) if self.spec.gripper else None
        try:
            sent = self.robot.write(command)
        except RobotError:
            return  # stopped and cleared by another thread between two lines
        if self.robot.state is not LifeState.RUNNING:
            self.player.stand(now)
        gripper = [] if self.spec.gripper is None else [sent.gripper if sent.gripper is not None else 0.0]
        self._standing = np.concatenate([np.asarray(sent.q), gripper])
        observation = self.robot.read()
        self._publish(observation)
        self._record(now, late, observation, playing, sent)

    def _take_chunk(self, now: int) -> None:
        newest = self._chunks.newest(after=self._chunks_seen)
        if newest is None:
            return
        self._chunks_seen = newest[0]
        if self.player.submit(chunk_of(newest[1]), now, self._standing) == "not finite":
            self.robot.stop(self.spec.stop, "the policy sent numbers that are not finite")

    def _answer_requests(self) -> None:
        if os.path.exists(self._stop_file) and not self.robot.latched:
            self.robot.stop(self.spec.stop, "the file STOP exists")
        written = self._requests.written
        if written == self._requests_seen:
            return
        records = self._requests.last(written - self._requests_seen)
        self._requests_seen = written
        for record in records:
            what, how, text, ramp_s = request_of(record)
            if what == "stop":
                self.robot.stop(how, text)
            elif what == "close":
                self.closing = True
                self.robot.stop(self.spec.stop, "closed")
            elif self.robot.state is not LifeState.ARMING:
                self._try(what, text, ramp_s)

    def _try(self, what: str, text: str, ramp_s: float) -> None:
        """Requests that may be refused; the policy's side is told why."""
        try:
            if what == "clear":
                self.robot.clear(text)
            else:
                self.player.stand(time.monotonic_ns())
                self._chunks_seen = self._chunks.written
                self.robot.arm(ramp_s, every_tick=self._while_arming)
        except RobotError as error:
            self._error_file.write_text(str(error))

    def _while_arming(self) -> None:
        now = time.monotonic_ns()
        self._answer_requests()
        observation = self.robot.read()
        self._publish(observation)
        self._record(now, 0, observation, None, None)

    def _publish(self, observation: Observation) -> None:
        if observation.seq != self._last_seq:
            self._last_seq = observation.seq
            fill_observation(self._observation, observation)
            self._observations.write(self._observation)
            for name, measured in observation.streams.items():
                self._publish_stream(name, measured)

    def _publish_stream(self, name: str, measured: Measured) -> None:
        if name not in self._streams:
            kind = stream_type(measured.value)
            slots = max(4, min(_STREAM_SLOTS, _STREAM_BYTES // kind.itemsize))
            self._streams[name] = Ring.create(self._directory / name, kind, slots), np.zeros((), kind)
        ring, record = self._streams[name]
        # Only what is new, and of the shape that the first had.
        if measured.t_ns > record["t_ns"] and record["value"].shape == measured.value.shape:
            record["t_ns"], record["value"] = measured.t_ns, measured.value
            ring.write(record)

    def _record(
        self, now: int, late: int, observation: Observation, playing: Playing | None, sent: Command | None
    ) -> None:
        tick = self._tick
        tick["t_ns"], tick["state"], tick["seq"] = now, self.robot.state, observation.seq
        tick["late_ns"], tick["missed"] = late, self.missed
        tick["obs_age_ns"] = now - observation.t_ns
        tick["chunk_age_ns"] = round(1e9 * self.player.age_s)
        tick["starved"], tick["overlap"] = self.player.starved, self.player.overlap_error
        tick["asked"] = np.nan if playing is None else playing.value
        tick["q"] = observation.q if sent is None else sent.q
        tick["dq"] = 0.0 if sent is None else sent.dq
        tick["gripper"] = np.nan if sent is None or sent.gripper is None else sent.gripper
        tick["reasons"] = b"" if sent is None else ",".join(sent.reasons).encode()[:128]
        tick["latched"] = self.robot.latched.encode()[:128]
        if now - self._counters_at > _COUNTERS_NS:
            self._counters_at = now
            refused = {f"chunk {reason}": count for reason, count in self.player.refused.items()}
            text = json.dumps({**self.robot.counters, **refused}).encode()
            tick["counters"] = text if len(text) <= 1024 else b""
        self._ticks.write(tick)


def serve(directory: Path) -> None:
    """Connect, tick, close. Interrupts from the keyboard are for the policy's process; TERM closes."""
    spec, config, connect_s = read_config(directory)
    robot = make_robot(spec)
    player = ChunkPlayer(config, action_size(spec))
    go_first(_NICE)
    robot.connect(connect_s)
    try:
        loop = ControlLoop(robot, player, directory)

        def close(number: int, frame: FrameType | None) -> None:
            loop.closing = True

        signal.signal(signal.SIGTERM, close)
        gc.collect()
        gc.freeze()
        gc.disable()
        loop.run()
    finally:
        robot.close()


def _leave_error(directory: Path, text: str) -> None:
    """Whole or not at all: the policy's side looks for it all the time."""
    partial = directory / f".{ERROR_FILE}.partial"
    partial.write_text(text)
    partial.replace(directory / ERROR_FILE)


def main() -> int:
    """Run the control process of the directory given on the command line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    directory = Path(sys.argv[1])
    try:
        serve(directory)
    except RobopolicyError as error:
        _leave_error(directory, str(error))
        return 1
    except Exception:
        _leave_error(directory, traceback.format_exc())
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
