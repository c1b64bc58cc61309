"""Toy environments that fail, and lanes that are lost. Workers import this module by name."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.env import Observation
from robopolicy.registry import register
from robopolicy.vector import ChunkStep, LaneVectorEnv
from tests.toy_env import ToyConfig, ToyEnv

MARK = "TOY_DIED"
"""Environment variable: a file that is made when the process dies, which then it does no more. Without it the
process dies every time."""


def lose(envs: LaneVectorEnv, when: Mapping[int, list[int]]) -> None:
    """From now on lanes `when[k]` are lost in the k-th chunk, as if their worker process had died."""
    original, chunk = envs.step_chunk, itertools.count()

    def step_chunk(actions: Any, *, length: int | None = None, active: Any = None) -> ChunkStep:
        lost = np.isin(np.arange(envs.num_envs), when.get(next(chunk), []))
        chosen = ~lost if active is None else active & ~lost
        return dataclasses.replace(original(actions, length=length, active=chosen), lost=lost)

    envs.step_chunk = step_chunk  # type: ignore[method-assign]


class _Marked(ToyEnv):
    bad: int

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Observation, dict[str, Any]]:
        self.marked, self.time = seed is not None and seed % 1_000_000 == self.bad, 0
        return super().reset(seed=seed, options=options)

    def step(self, action: np.ndarray) -> Any:
        self.time += 1
        return super().step(action)


@register("env", "toy_dying_once")
class DyingOnce(_Marked):
    """Its process ends in the fifth step of the fourth seed of any block, the first time."""

    bad = 3

    def __init__(self, config: ToyConfig, *, task: Any) -> None:
        super().__init__(config, task=task)

    def step(self, action: np.ndarray) -> Any:
        mark = os.environ.get(MARK)
        if self.marked and self.time == 4 and not (mark and Path(mark).exists()):
            if mark:
                Path(mark).touch()
            os._exit(9)
        return super().step(action)


@register("env", "toy_nan_reward")
class NanReward(_Marked):
    """Its reward is not a number in the fifth step of the third seed of any block."""

    bad = 2

    def __init__(self, config: ToyConfig, *, task: Any) -> None:
        super().__init__(config, task=task)

    def step(self, action: np.ndarray) -> Any:
        observation, reward, *rest = super().step(action)
        return observation, float("nan") if self.marked and self.time == 5 else reward, *rest
