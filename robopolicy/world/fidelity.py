"""How far a world model can be believed.

``python -m robopolicy.world.fidelity <run> [<file.json> [<store> ...]]``

Losses and pictures do not tell whether a policy can improve in a world model. What does: whether predicted
differences between actions are the real ones, how errors grow, and how many failures it takes for successes.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robopolicy import seeding
from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import split_episodes
from robopolicy.env import RobotEnv, make_env
from robopolicy.errors import RobopolicyError
from robopolicy.evaluation.machine import print_or_write, stamp
from robopolicy.registry import parse
from robopolicy.task import Task
from robopolicy.world.replay import Episode, Replay, replay
from robopolicy.world.success import longest_run
from robopolicy.world.train import Held, TrainWorldConfig, held_out
from robopolicy.world.world import World, find_world, load_world

__all__ = [
    "BRANCHES",
    "HORIZONS",
    "LONG",
    "OFFSETS",
    "STATES",
    "Branches",
    "branches",
    "by_key",
    "by_state",
    "errors",
    "fidelity",
    "held_of",
    "main",
    "r_squared",
    "successes",
    "touching",
]

HORIZONS = (1, 5, 15)
LONG = (1, 2, 5, 10, 20, 50, 100, 150)
BRANCHES = 16
STATES = 40
OFFSETS = (0.5, 0.2, 0.1)
"""Deviations of what is added to the recorded actions, in half the range of an action. The first one's are
reported whole; smaller ones tell whether a world model fails at the distance from recorded actions."""


@dataclass(frozen=True)
class Branches:
    """From S states, what `BRANCHES` sequences of actions lead to: frames `[S, 16, H, *F]` in usual steps."""

    real: np.ndarray
    imagined: np.ndarray


def fidelity(
    run: str | Path, *, visited: Sequence[str | Path] = (), states: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Everything, on the run's held-out episodes, JSON-ready.

    Args:
        visited: stores whose states are asked about instead, such as those that a refined policy visits.
    """
    run, world = find_world(run).parent, load_world(run)
    held, tasks = held_of(run, world)
    asked = _whole([EpisodeStore.open(path) for path in visited], world) if visited else held
    found, *nearer = (
        branches(world, asked, tasks, states=states or STATES, seed=seed, offset=offset) for offset in OFFSETS
    )
    imagined = replay(world, held.episodes, held.tasks, seed=seed)
    return {
        "tasks": list(world.config.tasks),
        "encoding": world.config.encoding,
        "steps": world.config.steps,
        "states": len(found.real),
        "visited": [str(path) for path in visited],
        "branches": BRANCHES,
        "r_squared": {str(h): r_squared(found, h) for h in HORIZONS},
        "r_squared_by_key": {
            key: {str(h): r_squared(part, h) for h in HORIZONS} for key, part in by_key(world, found).items()
        },
        "r_squared_by_offset": {
            str(offset): {str(h): r_squared(part, h) for h in HORIZONS}
            for offset, part in zip(OFFSETS, [found, *nearer], strict=True)
        },
        "by_touch": _by_touch(world, found),
        "by_state": by_state(found),
        "error": errors(world, imagined),
        **successes(world, imagined, held),
        **stamp(),
    }


def held_of(run: Path, world: World) -> tuple[Held, dict[int, Task]]:
    """The episodes that a run held out, and its tasks by number."""
    saved = json.loads((run / "config.json").read_text())
    saved.pop("fingerprint", None)
    config = parse(TrainWorldConfig, saved, str(run / "config.json"))
    stores = [EpisodeStore.open(path) for path in config.data]
    tasks = [Task.from_dict(store.task or {}) for store in stores]
    numbers = [world.task_number(task.name) for task in tasks]
    chosen = [split_episodes(store, config.validation, config.seed)[1] for store in stores]
    held = held_out(stores, chosen, numbers, list(world.spec.observations))
    return held, dict(zip(numbers, tasks, strict=True))


def _whole(stores: list[EpisodeStore], world: World) -> Held:
    """All episodes of stores."""
    numbers = [world.task_number(Task.from_dict(store.task or {}).name) for store in stores]
    every = [list(range(len(store))) for store in stores]
    return held_out(stores, every, numbers, list(world.spec.observations))


def branches(
    world: World,
    held: Held,
    tasks: dict[int, Task],
    *,
    states: int,
    seed: int,
    offset: float = OFFSETS[0],
) -> Branches:
    """Imagine and simulate the same actions from the same states, chosen at random in held-out episodes.

    An episode is played again up to the moment; then every branch adds its own constant to the actions that
    follow in the recording.

    Raises:
        RobopolicyError: an episode does not repeat itself: its store is of another version of the task.
        MissingCapability: the environment does not expose its state.
    """
    generator = seeding.rng(seed, "fidelity")
    envs = {number: make_env(task) for number, task in tasks.items()}
    length = HORIZONS[-1]
    real, imagined = [], []
    for _ in range(states):
        index = int(generator.integers(len(held.episodes)))
        episode = held.episodes[index]
        moment = int(generator.integers(max(1, len(episode["action"]) - 1)))
        rows = np.minimum(moment + np.arange(length), len(episode["action"]) - 1)
        actions = _varied(world, episode["action"][rows], offset, generator)
        real.append(_simulated(world, envs[held.tasks[index]], held, index, moment, actions))
        imagined.append(_imagined(world, episode, held.tasks[index], moment, actions, seed))
    for env in envs.values():
        env.close()
    unit = world.unit.numpy()
    return Branches(np.stack(real) / unit, np.stack(imagined) / unit)


def r_squared(found: Branches, step: int) -> float:
    """Share of the real differences between branches, after `step` steps, that the predicted ones explain."""
    real, imagined = _differences(found, step)
    return float(1 - ((imagined - real) ** 2).sum() / (real**2).sum())


def by_state(found: Branches) -> dict[str, list[float]]:
    """Squared differences after one step, summed over each of S states: the real ones, and what is missed."""
    real, imagined = _differences(found, 1)
    parts = {"real": real, "missed": imagined - real}
    return {name: [round(float((one**2).sum()), 4) for one in part] for name, part in parts.items()}


def _differences(found: Branches, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Of branches from their mean after `step` steps, `[S, 16, *F]`: the real ones, and the imagined."""
    real, imagined = (frames[:, :, step - 1] for frames in (found.real, found.imagined))
    return real - real.mean(1, keepdims=True), imagined - imagined.mean(1, keepdims=True)


def by_key(world: World, found: Branches) -> dict[str, Branches]:
    """The same of each observation that is not only copied."""
    if len(world.frame_shape) > 1:
        return {}
    real, imagined = (world.split(torch.from_numpy(frames)) for frames in (found.real, found.imagined))
    return {key: Branches(real[key].numpy(), imagined[key].numpy()) for key in real if real[key].any()}


def touching(world: World, found: Branches) -> np.ndarray:
    """`[S]`: whether the first action decides where anything but the robot goes."""
    real = world.split(torch.from_numpy(found.real[:, :, 0]))
    others = [key for key, spec in world.spec.observations.items() if spec.group != "proprioception"]
    spread = [np.ptp(real[key].numpy(), 1).reshape(len(found.real), -1).max(1) for key in others]
    return np.max(spread, 0, initial=0) > 1e-3


def _by_touch(world: World, found: Branches) -> dict[str, dict[str, Any]]:
    """How much one step explains where an action moves the robot alone, and where something else with it."""
    if len(world.frame_shape) > 1:
        return {}
    parts, touched = {}, touching(world, found)
    robot = [key for key, spec in world.spec.observations.items() if spec.group == "proprioception"]
    for name, chosen, keys in (("robot alone", ~touched, robot), ("something else too", touched, None)):
        part = by_key(world, Branches(found.real[chosen], found.imagined[chosen]))
        explained = {key: r_squared(one, 1) for key, one in part.items() if keys is None or key in keys}
        parts[name] = {"states": int(chosen.sum()), "r_squared_by_key": explained}
    return parts


def errors(world: World, imagined: Replay) -> dict[str, float]:
    """Root mean square error of imagined held-out episodes by step, in usual changes of one step."""
    moves = world.unit.isfinite()
    off = ((imagined.imagined - imagined.real) / world.unit)[..., moves]
    square = off.square().mean(-1)
    found = {}
    for step in LONG:
        if step <= square.shape[1] and (known := imagined.recorded[:, step - 1]).any():
            found[str(step)] = float(square[:, step - 1][known].mean().sqrt())
    return found


def successes(world: World, imagined: Replay, held: Held) -> dict[str, Any]:
    """The rule of success on the replayed held-out episodes."""
    high = (imagined.success > world.threshold) & imagined.recorded
    said = longest_run(high.cpu().numpy()) >= int(world.consecutive)
    return {
        "threshold": float(world.threshold),
        "consecutive": int(world.consecutive),
        "false_success": {"count": int(said[~held.succeeded].sum()), "of": int((~held.succeeded).sum())},
        "true_success": {"count": int(said[held.succeeded].sum()), "of": int(held.succeeded.sum())},
    }


def _varied(world: World, actions: np.ndarray, offset: float, generator: np.random.Generator) -> np.ndarray:
    """`[16, H, Da]`: actions `[H, Da]` with a constant added in each branch, within the bins.

    Where a pose is told from the present one, the position moves by shares of that range; turns stay.
    """
    low, high = np.array(world.spec.action.low), np.array(world.spec.action.high)
    span = np.zeros(len(low))
    for (part, there), here in zip(world.transform.parts, world.transform.slices, strict=True):
        told = world.relative and part.reference is not None and part.kind != "gripper"
        if told and part.kind == "rotation":
            continue
        ends = world.action_low[here].numpy(), world.action_high[here].numpy()
        span[there] = (ends[1] - ends[0]) / 2
        if not told:
            low[there], high[there] = ends
    added = generator.normal(0, offset, (BRANCHES, 1, len(low))) * span
    return np.clip(actions + added, low, high).astype(np.float32)


def _simulated(
    world: World, env: RobotEnv, held: Held, index: int, moment: int, actions: np.ndarray
) -> np.ndarray:
    episode = held.episodes[index]
    observation, _ = env.reset(seed=held.seeds[index])
    for action in episode["action"][:moment]:
        observation = env.step(action)[0]
    for key in world.spec.observations:
        if not np.allclose(observation[key], episode[key][moment], atol=1e-5):
            raise RobopolicyError(
                f"Episode seed {held.seeds[index]} does not repeat itself: {key} differs at step {moment}."
            )
    state, frames = env.get_state(), []
    for branch in actions:
        env.set_state(state)
        seen = [env.step(action)[0] for action in branch]
        stacked = {key: torch.from_numpy(np.stack([o[key] for o in seen])) for key in world.spec.observations}
        frames.append(world.join(stacked).float().numpy())
    return np.stack(frames)


@torch.inference_mode()
def _imagined(
    world: World, episode: Episode, task: int, moment: int, actions: np.ndarray, seed: int
) -> np.ndarray:
    horizon = world.config.history
    rows = np.maximum(np.arange(moment - horizon + 1, moment + 1), 0)
    history = world.frames(episode)[rows][None].repeat(BRANCHES, 1, *[1] * len(world.frame_shape))
    past = torch.full((1, horizon - 1, actions.shape[-1]), torch.nan)
    for j, row in enumerate(range(moment - horizon + 1, moment)):
        if row >= 0:
            past[:, j] = torch.from_numpy(episode["action"][row]).float()
    past, given = past.repeat(BRANCHES, 1, 1), torch.from_numpy(actions)
    number = torch.full((BRANCHES,), task)
    generator = torch.Generator().manual_seed(seeding.derive(seed, "fidelity"))
    frames = []
    for t in range(actions.shape[1]):
        noise = torch.randn((1, *world.noise_shape), generator=generator)
        acted = torch.cat([past, given[:, t, None]], 1)
        frame = world.imagine(history, acted, number, noise.expand(BRANCHES, *world.noise_shape)).frame
        history, past = torch.cat([history[:, 1:], frame[:, None]], 1), acted[:, 1:]
        frames.append(frame)
    return torch.stack(frames, 1).numpy()


def main(arguments: list[str]) -> None:
    """Measure and print, or write to a file."""
    measure = functools.partial(fidelity, visited=arguments[2:])
    print_or_write("robopolicy.world.fidelity", measure, arguments[:2])


if __name__ == "__main__":
    main(sys.argv[1:])
