"""Does an environment keep the promises of `RobotEnv`? Every violation is explained."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from robopolicy.env import Observation, RobotEnv
from robopolicy.errors import SpecMismatch
from robopolicy.spec import Spec

__all__ = ["assert_ok", "check"]


def check(env: RobotEnv, *, seed: int = 0, steps: int = 10) -> list[str]:
    """Every way in which an environment breaks the contract; empty if it keeps it.

    Resets the environment several times and plays a few random episodes.
    """
    spec = getattr(env, "robot_spec", None)
    if not isinstance(spec, Spec):
        return [f"robot_spec must be a Spec, got {type(spec).__name__}."]
    found = _check_spaces(env, spec)
    first = _play(env, spec, seed, steps, found)
    if not first:
        return found
    _play(env, spec, seed + 1, steps, found)
    again = _play(env, spec, seed, steps, found)
    other, _ = env.reset(seed=seed + 1)
    for number, (one, two) in enumerate(zip(first, again, strict=False)):
        differing = [key for key in spec.observations if not _same(one, two, key)]
        if differing:
            when = "right after reset" if number == 0 else f"{number} equal actions after reset"
            found.append(
                f"reset(seed={seed}) does not fix the episode: after another episode had been played, "
                f"{', '.join(differing)} differ {when}."
            )
            break
    if all(_same(first[0], other, key) for key in spec.observations):
        found.append(f"Every episode is the same: seeds {seed} and {seed + 1} start with equal observations.")
    return list(dict.fromkeys(found))


def assert_ok(env: RobotEnv, *, seed: int = 0, steps: int = 10) -> None:
    """Raise unless `check` finds nothing.

    Raises:
        SpecMismatch: one line for each violation.
    """
    found = check(env, seed=seed, steps=steps)
    if found:
        raise SpecMismatch(f"{type(env).__name__} breaks the contract:\n  - " + "\n  - ".join(found))


def _check_spaces(env: RobotEnv, spec: Spec) -> list[str]:
    found = []
    space = env.observation_space
    if not isinstance(space, gymnasium.spaces.Dict):
        found.append(f"observation_space must be a gymnasium Dict, got {type(space).__name__}.")
    else:
        if set(space.spaces) != set(spec.observations):
            found.append(
                f"observation_space has keys {sorted(space.spaces)}, "
                f"robot_spec has {sorted(spec.observations)}."
            )
        for key in set(space.spaces) & set(spec.observations):
            box, item = space.spaces[key], spec.observations[key]
            if box.shape != item.shape or box.dtype != np.dtype(item.dtype):
                found.append(
                    f"observation_space[{key!r}] is {box.dtype} {box.shape}, "
                    f"robot_spec says {item.dtype} {item.shape}."
                )
    action = env.action_space
    if not isinstance(action, gymnasium.spaces.Box) or action.shape != (spec.action.size,):
        found.append(f"action_space must be a Box of shape ({spec.action.size},), got {action}.")
    elif not (np.allclose(action.low, spec.action.low) and np.allclose(action.high, spec.action.high)):
        found.append("action_space and robot_spec.action have different bounds.")
    return found


def _play(env: RobotEnv, spec: Spec, seed: int, steps: int, found: list[str]) -> list[Observation]:
    """The observations of one episode of random actions; what is wrong with it goes into `found`."""
    result = env.reset(seed=seed)
    if not (isinstance(result, tuple) and len(result) == 2):
        found.append(f"reset must return (observation, info), got {type(result).__name__}.")
        return []
    observations = [_check_observation(result[0], spec, "reset", found)]
    low = np.clip(np.array(spec.action.low), -10, None)
    high = np.clip(np.array(spec.action.high), None, 10)
    rng = np.random.default_rng(seed)
    for number in range(steps):
        # The bounds themselves come first: an environment must accept every action it declares.
        action = (low, high)[number] if number < 2 else rng.uniform(low, high)
        before = action.astype(np.float32)
        given = before.copy()
        outcome: Any = env.step(given)
        if not (isinstance(outcome, tuple) and len(outcome) == 5):
            found.append("step must return (observation, reward, terminated, truncated, info).")
            return observations
        observation, reward, terminated, truncated, info = outcome
        observations.append(_check_observation(observation, spec, "step", found))
        if not np.array_equal(given, before):
            found.append("step changes the action array it is given.")
        if not isinstance(reward, (int, float)) or not np.isfinite(reward):
            found.append(f"The reward must be a finite Python number, got {reward!r}.")
        if type(terminated) is not bool or truncated is not False:
            found.append(
                "terminated must be a bool and truncated False (the episode clock is the caller's), "
                f"got {terminated!r} and {truncated!r}."
            )
        if type(info.get("success")) is not bool:
            found.append(f"info['success'] must be a bool after every step, got {info.get('success')!r}.")
        if terminated:
            break
    return observations


def _check_observation(observation: Any, spec: Spec, where: str, found: list[str]) -> Observation:
    if not isinstance(observation, dict):
        found.append(f"{where} must return a dict of observations, got {type(observation).__name__}.")
        return {}
    if set(observation) != set(spec.observations):
        found.append(
            f"{where} returns keys {sorted(observation)}, robot_spec has {sorted(spec.observations)}."
        )
    for key in set(observation) & set(spec.observations):
        value, item = observation[key], spec.observations[key]
        if item.kind == "text":
            continue
        if not isinstance(value, np.ndarray) or value.shape != item.shape or value.dtype != item.dtype:
            what = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
            found.append(f"{where}: {key!r} is {what}, robot_spec says {item.dtype} {item.shape}.")
        elif not np.isfinite(value).all():
            found.append(f"{where}: {key!r} has values that are not finite.")
    # A copy shows a buffer that the environment writes to again.
    return {key: np.array(value) for key, value in observation.items()}


def _same(one: Observation, two: Observation, key: str) -> bool:
    return key in one and key in two and np.array_equal(one[key], two[key])
