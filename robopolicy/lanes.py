"""The lanes of one process: environments stepping whole chunks into memory that all processes share."""

from __future__ import annotations

import gc
import importlib
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from robopolicy.env import Expert, Observation, RobotEnv, make_env
from robopolicy.errors import RobopolicyError, SpecMismatch
from robopolicy.seeding import derive
from robopolicy.spec import Spec
from robopolicy.task import Task

__all__ = ["Buffers", "FrameHook", "Layout", "Shard", "layout_of", "serve"]

FrameHook = Callable[[int, RobotEnv], None]
Layout = Mapping[str, tuple[tuple[int, ...], str]]
"""Shape and dtype of every shared array."""
_MANY = 10
"""Closed environments that are worth a collection of garbage, which takes 0.2 s."""


class Buffers:
    """One flat memory shared by all processes, seen as the arrays of a `ChunkStep`."""

    def __init__(self, memory: Any, layout: Layout) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        offset = 0
        for name, (shape, dtype) in layout.items():
            count = int(np.prod(shape))
            array = np.frombuffer(memory, dtype=dtype, count=count, offset=offset).reshape(shape)
            self.arrays[name] = array
            offset += -(-array.nbytes // 64) * 64

    @staticmethod
    def size(layout: Layout) -> int:
        sizes = (int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in layout.values())
        return sum(-(-size // 64) * 64 for size in sizes)


def layout_of(spec: Spec, lanes: int, chunk: int) -> dict[str, tuple[tuple[int, ...], str]]:
    layout: dict[str, tuple[tuple[int, ...], str]] = {
        "action": ((lanes, chunk, spec.action.size), "float32"),
        "reward": ((lanes, chunk), "float64"),
        "success": ((lanes, chunk), "bool"),
        "steps": ((lanes,), "int64"),
        "terminated": ((lanes,), "bool"),
        "truncated": ((lanes,), "bool"),
    }
    for key, observation in spec.observations.items():
        if observation.kind != "text":
            layout[f"obs/{key}"] = ((lanes, chunk, *observation.shape), observation.dtype)
            layout[f"first/{key}"] = ((lanes, *observation.shape), observation.dtype)
    return layout


class Shard:
    """The lanes of one process: builds their environments and steps chunks into the buffers."""

    def __init__(self, task: Task, lanes: Sequence[int], buffers: Buffers, hold: int | None) -> None:
        self.task, self.lanes, self.arrays, self.hold = task, list(lanes), buffers.arrays, hold
        self.envs: dict[int, RobotEnv] = {lane: make_env(task) for lane in self.lanes}
        self.shapes = {
            key[6:]: array.shape[1:] for key, array in self.arrays.items() if key.startswith("first/")
        }
        self.latest: dict[int, Observation] = {}
        self.seeds: dict[int, int] = {}
        self.clock: dict[int, int] = {}
        self.first_success: dict[int, int | None] = {}
        self.experts: dict[int, Expert] = {}
        self.frame_hook: FrameHook | None = None

    def reset(self, seeds: Mapping[int, int]) -> None:
        for lane, seed in seeds.items():
            observation, _ = self.envs[lane].reset(seed=seed)
            self.latest[lane], self.seeds[lane] = observation, seed
            self.clock[lane], self.first_success[lane] = 0, None
            self.experts.pop(lane, None)
            self._write("first", observation, (lane,))
            if self.frame_hook:
                self.frame_hook(lane, self.envs[lane])

    def step(self, active: Sequence[int], length: int, use_expert: bool) -> None:
        for lane in active:
            self._step_lane(lane, length, use_expert)

    def _step_lane(self, lane: int, length: int, use_expert: bool) -> None:
        env, arrays = self.envs[lane], self.arrays
        if use_expert and lane not in self.experts:
            seed = derive(self.seeds[lane], "expert")
            self.experts[lane] = env.expert(seed, self.task.expert)
        terminated = truncated = False
        done = 0
        while done < length and not (terminated or truncated):
            if use_expert:
                arrays["action"][lane, done] = self.experts[lane].act(self.latest[lane])
            action = arrays["action"][lane, done].copy()
            observation, reward, terminated, _, info = env.step(action)
            success = bool(info.get("success", False))
            self.clock[lane] += 1
            if success and self.first_success[lane] is None:
                self.first_success[lane] = self.clock[lane]
            first = self.first_success[lane]
            held = first is not None and self.hold is not None and self.clock[lane] - first >= self.hold
            terminated = bool(terminated) or held
            truncated = not terminated and self.clock[lane] >= self.task.horizon
            self._write("obs", observation, (lane, done))
            arrays["reward"][lane, done], arrays["success"][lane, done] = reward, success
            self.latest[lane] = observation
            done += 1
            if self.frame_hook:
                self.frame_hook(lane, env)
        arrays["steps"][lane] = done
        arrays["terminated"][lane], arrays["truncated"][lane] = terminated, truncated

    def _write(self, group: str, observation: Observation, where: tuple[int, ...]) -> None:
        # NumPy would broadcast a wrong shape and keep the last episode's value of a missing key.
        if observation.keys() != self.shapes.keys():
            raise SpecMismatch(
                f"Observations {sorted(observation)} given, the spec has {sorted(self.shapes)}."
            )
        for key, value in observation.items():
            if np.shape(value) != self.shapes[key]:
                given, wanted = list(np.shape(value)), list(self.shapes[key])
                raise SpecMismatch(f"Observation {key!r} has shape {given}, the spec says {wanted}.")
            self.arrays[f"{group}/{key}"][where] = value

    def close(self) -> None:
        many = len(self.envs) >= _MANY
        while self.envs:
            self.envs.popitem()[1].close()
        if many:  # simulators refer to themselves: their megabytes stay until Python happens to look
            gc.collect()


def _serve(pipe: Connection, memory: Any, layout: Any, task: Task, lanes: Sequence[int], hold: Any) -> None:
    try:
        shard = Shard(task, lanes, Buffers(memory, layout), hold)
        pipe.send(None)
        while (message := pipe.recv()) is not None:
            verb, arguments = message
            getattr(shard, verb)(*arguments)
            pipe.send(None)
        shard.close()
    except (EOFError, KeyboardInterrupt):
        pass
    except RobopolicyError as error:
        pipe.send(error)
    except BaseException:  # noqa: BLE001 - told to the parent, which raises it
        pipe.send(traceback.format_exc())


def serve(module: str, *arguments: Any) -> None:
    """Be a worker: import the environment's module, build a shard, and answer messages until told to stop."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is the parent's to handle: it may still need this one
    importlib.import_module(module)  # registers the environment in a fresh interpreter
    _serve(*arguments)
