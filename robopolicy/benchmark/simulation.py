"""Environments and evaluation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from robopolicy.evaluation.evaluate import evaluate
from robopolicy.policies.policy import Policy
from robopolicy.rollout import PolicyActor
from robopolicy.seeding import episode_seeds
from robopolicy.task import Task
from robopolicy.vector import LaneVectorEnv

__all__ = ["CHUNK", "LANES", "environments", "evaluation"]

LANES = 2
CHUNK = 16


def environments(
    tasks: Sequence[Task], *, workers: Sequence[int], seconds: float, rounds: int
) -> list[dict[str, Any]]:
    """Control steps a second of `LaneVectorEnv`, resets apart, with scripted experts and zero actions."""
    rows = []
    for task in tasks:
        for count in workers:
            tqdm.write(f"  {task.name}, {count} workers")
            started = time.perf_counter()
            envs = LaneVectorEnv(task, LANES, workers=count, chunk=CHUNK, success_hold=-1)
            startup = time.perf_counter() - started
            try:
                runs = {actor: _Run(envs, actor == "expert") for actor in ("expert", "zero")}
                for _ in range(rounds):
                    for run in runs.values():
                        run.play(seconds / rounds)
            finally:
                envs.close()
            for actor, run in runs.items():
                rows.append(
                    {
                        "task": task.name,
                        "actor": actor,
                        "workers": count,
                        "lanes": LANES,
                        "steps_per_s": {"max": max(run.rates), "median": float(np.median(run.rates))},
                        "reset_ms": float(np.median(run.resets)) / LANES * 1e3,
                        "startup_s": startup,
                    }
                )
    return rows


def evaluation(policy: Policy, task: Task, *, episodes: int, workers: int) -> dict[str, Any]:
    """Seconds of an evaluation on selection seeds, its environments' start apart."""
    found = evaluate(PolicyActor(policy), task, episodes=episodes, block="select", workers=workers)
    return {
        "task": task.name,
        "episodes": episodes,
        "lanes": found.lanes,
        "workers": found.workers,
        "seconds_per_100": found.seconds_per_episode * 100,
        "startup_s": found.startup_seconds,
        "steps_per_s": found.steps_per_second,
        "success": sum(row.success for row in found.rows) / episodes,
    }


class _Run:
    """Whole episodes of all lanes; only their steps are timed."""

    def __init__(self, envs: LaneVectorEnv, expert: bool) -> None:
        self.envs, self.expert = envs, expert
        self.rates: list[float] = []
        self.resets: list[float] = []
        self._episode = 0

    def play(self, seconds: float) -> None:
        envs, spent, steps = self.envs, 0.0, 0
        zeros = np.zeros((envs.num_envs, CHUNK, envs.robot_spec.action.size), np.float32)
        zeros = np.clip(zeros, envs.robot_spec.action.low, envs.robot_spec.action.high)
        while spent < seconds:
            started = time.perf_counter()
            envs.reset(seed=episode_seeds("select", envs.num_envs, self._episode))
            self.resets.append(time.perf_counter() - started)
            self._episode += envs.num_envs
            over = np.zeros(envs.num_envs, bool)
            while not over.any() and spent < seconds:
                started = time.perf_counter()
                chunk = envs.step_chunk(None if self.expert else zeros, length=CHUNK)
                spent += time.perf_counter() - started
                steps += int(chunk.steps.sum())
                over = chunk.terminated | chunk.truncated
        self.rates.append(steps / spent)
