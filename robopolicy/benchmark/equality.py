"""Does the fast engine of a robosuite task do what robosuite does? ``scripts/benchmark.py what=equality``."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.env import Expert, Observation, make_env
from robopolicy.errors import ConfigError, MissingCapability
from robopolicy.evaluation.machine import stamp
from robopolicy.progress import progress_bar
from robopolicy.seeding import episode_seeds
from robopolicy.task import Task

__all__ = ["FREE_STEPS", "actor_of", "check_equality", "has_expert", "touches"]

FREE_STEPS = 200
_EPISODE = 120
_RANDOM_EVERY = 8


def check_equality(
    task: Task, *, states: int, free: int, pairs: int, path: Path | None = None
) -> dict[str, Any]:
    """Compare the engines of a robosuite task, and write what was found to `path`.

    Args:
        states: so many single control steps, each from a state of an episode that both engines are set to.
        free: episodes of 200 random actions above the scene, both engines from the same reset.
        pairs: episodes of the scripted expert, where there is one, each engine by itself from the same seeds.

    Returns:
        Largest differences of joint positions, velocities, float32 observations and rewards; outcomes.

    Raises:
        ConfigError: not a robosuite task, or one that has no fast engine.
    """
    if task.env["name"] != "robosuite":
        raise ConfigError(f"Equality is checked for robosuite tasks, {task.name} is {task.env['name']}.")
    fast, stock = (
        make_env(dataclasses.replace(task, env={**task.env, "observe": "stock", "engine": engine}))
        for engine in ("fast", "stock")
    )
    if fast.engine == stock.engine:  # type: ignore[attr-defined]
        raise ConfigError(f"{task.name} has no fast engine.")
    started = time.perf_counter()
    result: dict[str, Any] = {
        "task": task.to_dict(),
        "settings": {"states": states, "free": free, "pairs": pairs},
    }
    if states:
        result["one_step"] = _one_step(fast, stock, task, states)
    if free:
        result["free_motion"] = _free_motion(fast, stock, free)
    if pairs and has_expert(fast, task):
        result["expert"] = _expert_pairs(fast, stock, task, pairs)
    result |= {
        "wall_seconds": round(time.perf_counter() - started, 1),
        **stamp(),
    }
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps(result, indent=1) + "\n")
        os.replace(partial, path)
    return result


def _one_step(fast: Any, stock: Any, task: Task, states: int) -> dict[str, Any]:
    worst, contacts, scripted = _Worst(), 0, has_expert(fast, task)
    rng = np.random.default_rng(0)
    progress = progress_bar(total=states, desc=f"{task.name}: states", leave=False)
    for episode, seed in enumerate(episode_seeds("practice", states)):
        observation, _ = fast.reset(seed=seed)
        stock.reset(seed=seed)
        act, spec = actor_of(fast, task, scripted=scripted, seed=seed, rng=rng), fast.robot_spec.action
        for step in range(1, _EPISODE + 1):
            anything = step % _RANDOM_EVERY == 0
            action = rng.uniform(spec.low, spec.high) if anything else act(observation)
            contacts += touches(fast)
            state = fast.get_state()
            for env in (fast, stock):
                env.set_state(state)
            found = fast.step(action)
            worst.update(fast, stock, found, stock.step(action))
            observation = found[0]
            progress.update()
            if worst.count == states:
                progress.close()
                return {"states": states, "in_contact": contacts, "episodes": episode + 1, **worst.to_dict()}
    raise AssertionError("an episode has at least one step")


def has_expert(env: Any, task: Task) -> bool:
    """Whether somebody wrote a scripted expert for a task."""
    env.reset(seed=0)
    try:
        env.expert(0, task.expert)
    except MissingCapability:
        return False
    return True


def actor_of(
    env: Any, task: Task, *, scripted: bool, seed: int, rng: np.random.Generator
) -> Callable[[Observation], np.ndarray]:
    """The scripted expert of an episode just begun, or a hand pushed towards the object."""
    if scripted:
        expert: Expert = env.expert(seed, task.expert)
        return lambda observation: np.asarray(expert.act(observation), np.float64)

    def push(_: Observation) -> np.ndarray:
        action: np.ndarray = 0.3 * rng.standard_normal(env.robot_spec.action.size)
        action[:3] += (env.simulation[1].xpos[env.object_body] - env.arm.position) / 0.05
        return action

    return push


def _free_motion(fast: Any, stock: Any, episodes: int) -> dict[str, Any]:
    worst, rng = _Worst(), np.random.default_rng(1)
    spec = fast.robot_spec.action
    for seed in episode_seeds("select", episodes):
        for env in (fast, stock):
            env.reset(seed=seed)
        action = np.zeros(spec.size)
        for _ in range(FREE_STEPS):
            action = 0.8 * action + 0.2 * rng.standard_normal(spec.size)
            action[2::7] += 0.02  # stay above the scene
            worst.update(fast, stock, fast.step(action), stock.step(action))
    return {"episodes": episodes, "steps": FREE_STEPS, **worst.to_dict()}


def _expert_pairs(fast: Any, stock: Any, task: Task, pairs: int) -> dict[str, Any]:
    outcomes: list[list[bool]] = []
    lengths: list[list[int]] = []
    for seed in progress_bar(episode_seeds("select", pairs), desc=f"{task.name}: expert", leave=False):
        ends = [_episode(env, task, seed) for env in (fast, stock)]
        outcomes.append([success for success, _ in ends])
        lengths.append([steps for _, steps in ends])
    return {
        "seeds": pairs,
        "success": {"fast": sum(o[0] for o in outcomes), "stock": sum(o[1] for o in outcomes)},
        "outcomes_different": sum(one != two for one, two in outcomes),
        "lengths_different": sum(one != two for one, two in lengths),
    }


def _episode(env: Any, task: Task, seed: int) -> tuple[bool, int]:
    observation, _ = env.reset(seed=seed)
    expert = env.expert(seed, task.expert)
    for step in range(task.horizon):
        observation, _, _, _, info = env.step(expert.act(observation))
        if info["success"]:
            return True, step + 1
    return False, task.horizon


class _Worst:
    """The largest differences seen."""

    def __init__(self) -> None:
        self.count, self.rewards = 0, 0
        self.largest = {"qpos": 0.0, "qvel": 0.0, "observation": 0.0}

    def update(self, fast: Any, stock: Any, one: tuple[Any, ...], two: tuple[Any, ...]) -> None:
        """Compare the simulations of two environments and what their `step` returned."""
        a, b = fast.simulation[1], stock.simulation[1]
        seen = max(np.abs(one[0][key] - two[0][key]).max() for key in one[0])
        found = {
            "qpos": np.abs(a.qpos - b.qpos).max(),
            "qvel": np.abs(a.qvel - b.qvel).max(),
            "observation": seen,
        }
        self.largest = {key: max(value, float(found[key])) for key, value in self.largest.items()}
        self.rewards += one[1] != two[1] or one[4]["success"] != two[4]["success"]
        self.count += 1

    def to_dict(self) -> dict[str, Any]:
        """Numbers for a result file."""
        return {"largest_difference": self.largest, "rewards_or_successes_different": self.rewards}


def touches(env: Any) -> bool:
    """Whether a robot or gripper touches anything else."""
    model, data = env.simulation
    for one, two in data.contact.geom:
        names = (model.body(model.geom_bodyid[geom]).name for geom in (one, two))
        robot = [name.startswith(("robot", "gripper")) for name in names]
        if robot[0] != robot[1]:
            return True
    return False
