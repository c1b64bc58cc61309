"""Many environments of one task, stepping whole chunks, in this process or in workers over shared memory.

A *lane* is one slot of the batch. Lanes are a setting of the caller; how many worker processes share them
changes only the speed: lane i sees the same seeds and actions either way.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, ClassVar, NoReturn

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from robopolicy.env import make_env
from robopolicy.errors import ConfigError, RobopolicyError
from robopolicy.lanes import Buffers, FrameHook, Shard, layout_of, serve
from robopolicy.task import Task

__all__ = ["MOST_DEATHS", "ChunkStep", "LaneVectorEnv", "WorkerError"]

MOST_DEATHS = 3
"""Deaths of a worker, without a chunk that it finished in between, after which it is not restarted."""


class WorkerError(RobopolicyError, RuntimeError):
    """An environment worker failed, or died again and again."""


@dataclass(frozen=True)
class ChunkStep:
    """What one chunk did in each of B lanes. Row j of a lane is meaningful for ``j < steps[lane]``."""

    observations: dict[str, np.ndarray]
    """After each step, `[B, Ta, ...]`."""
    actions: np.ndarray
    """As executed, `[B, Ta, Da]`."""
    rewards: np.ndarray
    """`[B, Ta]`."""
    success: np.ndarray
    """After each step, bool `[B, Ta]`."""
    steps: np.ndarray
    """Steps executed, `[B]`; 0 for lanes that were idle or lost."""
    terminated: np.ndarray
    truncated: np.ndarray
    lost: np.ndarray
    """Active lanes, `[B]`, whose worker process died since their last reset: their episode is gone."""


class LaneVectorEnv(VectorEnv):
    """B lanes of one task as a ``gymnasium.vector.VectorEnv`` that never resets by itself.

    A worker process that dies (out of memory, a crashed simulator) is started again; the episodes of its
    lanes are lost, which `step_chunk` reports.

    Args:
        task: the task; its horizon and `success_hold` end episodes.
        lanes: B.
        workers: processes that share the lanes; 0 keeps everything in this process.
        chunk: longest chunk that `step_chunk` will be given.
        success_hold: instead of the task's; -1 never ends an episode for its success.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 - as gymnasium declares it
    loses_for_good: ClassVar[bool] = False
    """Whether an episode that is lost would be lost again, however often it is run."""

    def __init__(
        self, task: Task, lanes: int, *, workers: int = 0, chunk: int = 16, success_hold: int | None = None
    ) -> None:
        if lanes < 1 or workers < 0 or chunk < 1:
            raise ConfigError(f"Need lanes >= 1, workers >= 0, chunk >= 1; got {lanes}, {workers}, {chunk}.")
        probe = make_env(task)
        self.task, self.num_envs, self.chunk = task, lanes, chunk
        self.workers = min(workers, lanes)
        self.robot_spec = probe.robot_spec
        self.single_observation_space = probe.observation_space
        self.single_action_space = probe.action_space
        self.observation_space = batch_space(probe.observation_space, lanes)
        self.action_space = batch_space(probe.action_space, lanes)
        hold = task.success_hold if success_hold is None else success_hold
        layout = layout_of(self.robot_spec, lanes, chunk)
        self._shard: Shard | None = None
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []
        self._parts: list[list[int]] = []
        self._lost = np.zeros(lanes, bool)
        module = type(probe.unwrapped).__module__
        probe.close()
        if workers == 0:
            self._buffers = Buffers(bytearray(Buffers.size(layout)), layout)
            self._shard = Shard(task, range(lanes), self._buffers, None if hold < 0 else hold)
            return
        self._context = multiprocessing.get_context("spawn")
        memory = self._context.RawArray("b", Buffers.size(layout))
        self._buffers = Buffers(memory, layout)
        self._arguments = (module, memory, layout, task, None if hold < 0 else hold)
        self._parts = [list(range(worker, lanes, self.workers)) for worker in range(self.workers)]
        self._deaths = [0] * self.workers
        for part in self._parts:
            process, pipe = self._start(part)
            self._processes.append(process)
            self._pipes.append(pipe)
        for worker in range(self.workers):
            if not self._answered(worker):
                self._give_up(worker, f"its process ended at the start (exit code {self._exit_code(worker)})")

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The shared buffers; overwritten by the next reset or step."""
        return self._buffers.arrays

    def on_frame(self, hook: FrameHook | None) -> None:
        """Call ``hook(lane, env)`` after every reset and step (in-process lanes only)."""
        if self._shard is None:
            raise ConfigError("Frames can be watched only with workers=0.")
        self._shard.frame_hook = hook

    def asked_to_reset(
        self, seed: int | Sequence[int] | None, options: dict[str, Any] | None
    ) -> tuple[np.ndarray, list[int]]:
        """Which lanes, bool `[B]`, and a seed for each; one number seeds them in a row, None at random."""
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, bool)), bool)
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        seeds = [seed + lane for lane in range(self.num_envs)] if isinstance(seed, int) else list(seed)
        if len(seeds) != self.num_envs or mask.shape != (self.num_envs,):
            raise ConfigError(f"reset needs one seed and one mask entry for each of {self.num_envs} lanes.")
        return mask, [int(value) for value in seeds]

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Reset the lanes in ``options["reset_mask"]`` (all by default); `seed` has one entry per lane."""
        mask, seeds = self.asked_to_reset(seed, options)
        chosen = {lane: seeds[lane] for lane in np.flatnonzero(mask).tolist()}
        seeds_of = [{lane: chosen[lane] for lane in part if lane in chosen} for part in self._all]
        died = self._call("reset", [(given,) for given in seeds_of])
        while died:  # nothing is lost by resetting again
            died = self._call("reset", [(seeds_of[w] if w in died else {},) for w in range(len(seeds_of))])
        self._lost &= ~mask
        return {k[6:]: v.copy() for k, v in self.arrays.items() if k.startswith("first/")}, {}

    def step_chunk(
        self, actions: np.ndarray | None, *, length: int | None = None, active: np.ndarray | None = None
    ) -> ChunkStep:
        """Execute a chunk in every active lane; a lane stops where its episode ends.

        Args:
            actions: `[B, Ta, Da]`, or None to let each environment's scripted expert act for `length` steps.
            active: bool `[B]`; idle lanes execute 0 steps.
        """
        arrays = self.arrays
        if actions is not None:
            length = actions.shape[1]
            if actions.shape != (self.num_envs, length, self.robot_spec.action.size):
                raise ConfigError(
                    f"step_chunk wants [{self.num_envs}, Ta, {self.robot_spec.action.size}] actions, "
                    f"got {list(actions.shape)}."
                )
        if length is None or not 1 <= length <= self.chunk:
            raise ConfigError(f"A chunk is 1 to {self.chunk} steps long here, got {length}.")
        if actions is not None:
            arrays["action"][:, :length] = actions
        chosen = np.ones(self.num_envs, bool) if active is None else np.asarray(active, bool)
        lanes = np.flatnonzero(chosen & ~self._lost)
        if actions is not None and not np.isfinite(actions[lanes]).all():
            raise ConfigError(f"An action for task {self.task.name} is not finite.")
        for name in ("steps", "terminated", "truncated"):
            arrays[name][:] = 0
        wanted = set(lanes.tolist())
        self._call(
            "step", [([x for x in part if x in wanted], length, actions is None) for part in self._all]
        )
        return ChunkStep(
            observations={k[4:]: v[:, :length].copy() for k, v in arrays.items() if k.startswith("obs/")},
            actions=arrays["action"][:, :length].copy(),
            rewards=arrays["reward"][:, :length].copy(),
            success=arrays["success"][:, :length].copy(),
            steps=arrays["steps"].copy(),
            terminated=arrays["terminated"].copy(),
            truncated=arrays["truncated"].copy(),
            lost=self._lost & chosen,
        )

    def step(self, actions: np.ndarray) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step in every lane, as gymnasium has it; ``infos["success"]`` is bool `[B]`."""
        chunk = self.step_chunk(np.asarray(actions, np.float32)[:, None])
        observation = {key: value[:, 0] for key, value in chunk.observations.items()}
        infos = {"success": chunk.success[:, 0]}
        return observation, chunk.rewards[:, 0], chunk.terminated, chunk.truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the workers."""
        if self._shard is not None:
            self._shard.close()
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
        deadline = time.monotonic() + 5
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.terminate()

    @property
    def _all(self) -> list[list[int]]:
        return self._parts or [list(range(self.num_envs))]

    def _call(self, verb: str, arguments: Sequence[tuple[Any, ...]]) -> set[int]:
        """Give every worker its part of a job; returns those that died doing it (started again by then)."""
        if self._shard is not None:
            getattr(self._shard, verb)(*arguments[0])
            return set()
        busy, died = [], set()
        for worker, (pipe, argument) in enumerate(zip(self._pipes, arguments, strict=True)):
            if argument[0]:
                try:
                    pipe.send((verb, argument))
                except OSError:  # died since the last job
                    died.add(worker)
                else:
                    busy.append(worker)
        for worker in busy:
            if not self._answered(worker):
                died.add(worker)
            elif verb == "step":
                self._deaths[worker] = 0
        for worker in sorted(died):
            self._restart(worker)
        return died

    def _start(self, part: list[int]) -> tuple[Any, Connection]:
        module, memory, layout, task, hold = self._arguments
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=serve, args=(module, theirs, memory, layout, task, part, hold), daemon=True
        )
        process.start()
        theirs.close()
        return process, ours

    def _restart(self, worker: int) -> None:
        part = self._parts[worker]
        self._deaths[worker] += 1
        reason = f"its process ended (exit code {self._exit_code(worker)}); out of memory is the usual cause"
        if self._deaths[worker] >= MOST_DEATHS:
            self._give_up(worker, f"{reason}. It was started again {self._deaths[worker] - 1} times")
        warnings.warn(
            f"Environment worker {worker} of task {self.task.name}: {reason}. It is started again; "
            f"{len(part)} episodes are lost.",
            stacklevel=3,
        )
        self._pipes[worker].close()
        self._processes[worker], self._pipes[worker] = self._start(part)
        if not self._answered(worker):
            self._give_up(worker, f"{reason}. Started again, it ended at once")
        self._lost[part] = True
        for name in ("steps", "terminated", "truncated"):
            self.arrays[name][part] = 0

    def _answered(self, worker: int) -> bool:
        """Wait for a worker's answer; False if it died.

        Raises:
            WorkerError: its job raised.
        """
        try:
            failure = self._pipes[worker].recv()
        except (EOFError, ConnectionError):
            return False
        if failure is not None:
            self._give_up(worker, failure)
        return True

    def _exit_code(self, worker: int) -> int | None:
        self._processes[worker].join(1)  # the exit code is there only after the process was reaped
        code: int | None = self._processes[worker].exitcode
        return code

    def _give_up(self, worker: int, failure: RobopolicyError | str) -> NoReturn:
        self.close()
        if isinstance(failure, RobopolicyError):
            raise failure
        raise WorkerError(f"Environment worker {worker} failed on task {self.task.name}:\n{failure}")
