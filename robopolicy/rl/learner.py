"""Gradient steps in a process of their own, for methods that steer noise: in real time nobody can wait.

Whoever practises sends rows down a pipe; the actor comes back as a file that is replaced whole. So practising
never waits for learning, and learning never for practising.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from robopolicy.device import products_of
from robopolicy.errors import ConfigError
from robopolicy.learning import checkpoint
from robopolicy.policies.policy import evaluating
from robopolicy.registry import build
from robopolicy.rl.dsrl import NoiseRefiner
from robopolicy.rl.off_policy import averages
from robopolicy.rl.practice import Experience
from robopolicy.rl.replay import Rows
from robopolicy.seeding import derive
from robopolicy.spec import Spec
from robopolicy.task import Task
from robopolicy.vector import ChunkStep, LaneVectorEnv

__all__ = ["ACTOR", "COUNTS", "STATUS", "TRAINING", "Absent", "Learner", "Practising", "Worker"]

ACTOR, STATUS = "actor.safetensors", "learner.json"
TRAINING, COUNTS = "training.safetensors", "training.json"
_NICE = 5
_PUBLISH_S = 1.0
_IDLE_S = 0.01
_AT_ONCE = 4
_START_S = 120.0


class Learner:
    """The practising side.

    Args:
        base: checkpoint of the policy that is steered.
        method: of the kind that steers noise, `update_ratio` gradient steps for each row at most.
        directory: for the actor and, when it is closed, what resuming needs; found there, it is gone on with.

    Raises:
        ConfigError: the process did not start.
    """

    def __init__(self, base: str, method: Mapping[str, Any], directory: Path, *, seed: int) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        for name in (ACTOR, STATUS):
            (directory / name).unlink(missing_ok=True)
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, base, dict(method), str(directory), seed), daemon=True
        )
        self._process.start()
        theirs.close()
        self._taken = 0
        deadline = time.monotonic() + _START_S
        while not (directory / STATUS).is_file():
            if not self._process.is_alive() or time.monotonic() > deadline:
                self._process.kill()
                raise ConfigError(f"The learner of {base} did not start; its process says why.")
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        """The process that learns."""
        assert self._process.pid is not None
        return self._process.pid

    def send(self, rows: Rows, env_steps: int) -> None:
        """What was just practised, and how much that makes."""
        self._pipe.send(({key: value.numpy() for key, value in rows.items()}, env_steps))

    def actor(self) -> dict[str, Tensor] | None:
        """The newest actor's tensors; None if there is none since the last call."""
        path = self.directory / ACTOR
        written = path.stat().st_mtime_ns if path.is_file() else 0
        if written == self._taken:
            return None
        self._taken = written
        return checkpoint.read_tensors(path)

    @property
    def status(self) -> dict[str, Any]:
        """Counts of rows and updates, and the losses."""
        found: dict[str, Any] = json.loads((self.directory / STATUS).read_text())
        return found

    def close(self) -> None:
        """Have everything learned written, and end the process. Idempotent."""
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join(30.0)
        if self._process.is_alive():
            self._process.terminate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Practising:
    """One lane of practice whose updates are made elsewhere; numpy in, numpy out.

    Args:
        refiner: its own learner is left as it is but for the actor, which is the newest of `learner`.
    """

    def __init__(self, refiner: NoiseRefiner, learner: Learner, *, seed: int) -> None:
        self.refiner, self.practice, self._learner, self._seed = refiner, refiner.practice, learner, seed
        self._generator = torch.Generator()

    def step(self, extra: Callable[[Experience], Mapping[str, np.ndarray]]) -> tuple[Experience, float]:
        """Choose a chunk with the newest actor, have it executed, and send what came of it.

        Args:
            extra: columns for the replay beside the method's own, `[B, ...]`.

        Returns:
            What happened, and how many seconds choosing took.
        """
        begun = time.perf_counter()
        refiner, practice = self.refiner, self.practice
        self.take_actor()
        self._generator.manual_seed(derive(self._seed, f"practice/{practice.env_steps}"))
        with torch.no_grad(), evaluating(refiner.policy):
            seen = refiner.tensors_of(practice.view.observation)
            chunk, decided = refiner.decide(seen, self._generator)
        seconds = time.perf_counter() - begun
        experience = practice.step(chunk.numpy())
        kept = {key: torch.as_tensor(value) for key, value in extra(experience).items()}
        self._learner.send(refiner.rows(experience, chunk, {**decided, **kept}), practice.env_steps)
        return experience, seconds

    def take_actor(self) -> None:
        """Act with the newest actor from now on."""
        tensors = self._learner.actor()
        if tensors is not None:
            self.refiner.learner.actor.load_state_dict(tensors)


class Absent(LaneVectorEnv):
    """Lanes of a robot that is elsewhere: enough for a method to be built, not for stepping."""

    def __init__(self, task: Task, spec: Spec, chunk: int) -> None:
        self.task, self.robot_spec, self.chunk = task, spec, chunk
        self.num_envs, self.workers = 1, 0

    def reset(self, **kwargs: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Zeros."""
        return {k: np.zeros((1, *o.shape), o.dtype) for k, o in self.robot_spec.observations.items()}, {}

    def step_chunk(self, *args: Any, **kwargs: Any) -> ChunkStep:
        """Refused."""
        raise ConfigError("Nobody practises in the process that learns.")

    def close_extras(self, **kwargs: Any) -> None:
        """Nothing to close."""


def _serve(pipe: Connection, base: str, method: dict[str, Any], directory: str, seed: int) -> None:
    os.setsid()  # a share of the cores of its own; and Ctrl-C is for the practising process
    os.nice(_NICE)
    torch.set_num_threads(1)
    policy = checkpoint.load(base)
    task = policy.provenance.task or Task(name="robot", env={"name": "none"}, horizon=1)
    envs = Absent(task, policy.spec, policy.action_horizon)
    # What zeros say about the noise's authority is of no interest; the practising side measures it.
    with contextlib.redirect_stdout(io.StringIO()):
        refiner: NoiseRefiner = build(
            "method", {**method, "force": True}, policy=policy, envs=envs, seed=seed
        )
    worker = Worker(refiner, Path(directory), seed)
    worker.publish()
    with contextlib.suppress(EOFError):
        worker.run(pipe)


class Worker:
    """Takes rows in and makes the updates that they are due."""

    def __init__(self, refiner: NoiseRefiner, directory: Path, seed: int) -> None:
        self.refiner, self.directory, self.seed = refiner, directory, seed
        self.rows = self.updates = 0
        self.owed = self.busy_s = 0.0
        self.logs: dict[str, float] = {}
        self.generator = torch.Generator(refiner.policy.device)
        saved = directory / TRAINING
        if saved.is_file():
            refiner.load_tensors(checkpoint.read_tensors(saved))
            counts = checkpoint.read_json(directory / COUNTS)
            self.rows, self.updates, self.owed = counts["rows"], counts["updates"], counts["owed"]
            refiner.practice.env_steps = counts["env_steps"]

    def run(self, pipe: Connection) -> None:
        """Until told to end."""
        published = time.monotonic()
        while True:
            while pipe.poll(0.0 if self.owed >= 1 else _IDLE_S):
                message = pipe.recv()
                if message is None:
                    self.publish()
                    self.save()
                    return
                self._take(*message)
            if self.owed >= 1:
                self._learn(min(int(self.owed), _AT_ONCE))
            if time.monotonic() - published > _PUBLISH_S:
                published = time.monotonic()
                self.publish()

    def publish(self) -> None:
        """The actor as it is, and how it goes."""
        self._replace(ACTOR, self.refiner.learner.actor.state_dict())
        status = {"rows": self.rows, "updates": self.updates, "busy_s": round(self.busy_s, 2), **self.logs}
        partial = self.directory / f".{STATUS}"
        partial.write_text(json.dumps(status))
        os.replace(partial, self.directory / STATUS)

    def save(self) -> None:
        """What resuming needs."""
        counts = {
            "rows": self.rows,
            "updates": self.updates,
            "owed": self.owed,
            "env_steps": self.refiner.env_steps,
        }
        (self.directory / COUNTS).write_text(json.dumps(counts))
        self._replace(TRAINING, self.refiner.tensors())

    def _take(self, rows: dict[str, np.ndarray], env_steps: int) -> None:
        refiner, count = self.refiner, len(rows["reward"])
        if count:
            refiner.replay.add({key: torch.as_tensor(value) for key, value in rows.items()})
        self.rows += count
        if not refiner.warming:
            self.owed += refiner.settings.update_ratio * count
        refiner.practice.env_steps = env_steps

    def _learn(self, updates: int) -> None:
        begun = time.perf_counter()
        self.generator.manual_seed(derive(self.seed, f"update/{self.updates}"))
        with products_of(self.refiner.learner.config.batch_size):
            self.logs = averages(self.refiner.learn(updates, self.generator))
        self.updates += updates
        self.owed -= updates
        self.busy_s += time.perf_counter() - begun

    def _replace(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        partial = self.directory / f".{name}"
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, partial)
        os.replace(partial, self.directory / name)
