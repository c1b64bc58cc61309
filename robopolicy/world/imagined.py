"""Lanes that imagine: a world model as the `VectorEnv` that refinement methods practise in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from torch import Tensor

from robopolicy.device import products_of
from robopolicy.errors import ConfigError, DataError
from robopolicy.lanes import FrameHook
from robopolicy.seeding import derive, rng
from robopolicy.spec import Spec
from robopolicy.task import Task
from robopolicy.vector import ChunkStep, LaneVectorEnv
from robopolicy.world.starts import Starts
from robopolicy.world.world import World

__all__ = ["ImaginedConfig", "ImaginedVectorEnv", "require_spec"]


@dataclass(frozen=True, kw_only=True)
class ImaginedConfig:
    """How episodes are imagined."""

    decisions: int = 50
    """An episode is cut after this many chunks, or at the task's horizon."""
    anywhere: float = 0.0
    """Share of episodes that begin in the middle of a recorded one."""
    pessimism: float | None = None
    """An episode ends, failed, where the ensemble disagrees more than this many times its usual limit."""

    def __post_init__(self) -> None:
        if self.decisions < 1 or not 0 <= self.anywhere <= 1:
            raise ConfigError(f"env=imagined needs decisions >= 1 and 0 <= anywhere <= 1, got {self}.")
        if self.pessimism is not None and self.pessimism <= 0:
            raise ConfigError(f"env.pessimism must be positive, got {self.pessimism}.")


class ImaginedVectorEnv(LaneVectorEnv):
    """B imagined lanes of one task, stepped together on the world model's device.

    An episode is fixed by its seed, its actions and its lane (which chooses the member of an ensemble). It
    ends with success when the success model says so for long enough: what is imagined after that is not to
    be trusted. A lane whose imagination diverges is lost, like one whose worker died: nothing is learned
    from it.
    """

    loses_for_good = True

    def __init__(
        self,
        world: World,
        starts: Starts,
        task: Task,
        lanes: int,
        *,
        chunk: int = 16,
        config: ImaginedConfig | None = None,
    ) -> None:
        """Nothing is simulated.

        Raises:
            ConfigError: the world model does not know the task, or nothing was recorded to start from.
        """
        if lanes < 1 or chunk < 1:
            raise ConfigError(f"Need lanes >= 1 and chunk >= 1; got {lanes}, {chunk}.")
        self.world, self.config = world.eval(), config or ImaginedConfig()
        if self.config.pessimism is not None and world.members < 2:
            raise ConfigError("env.pessimism needs an ensemble: train the world model with world.members=3.")
        horizon = min(task.horizon, self.config.decisions * chunk)
        self.task = replace(task, horizon=horizon, success_hold=0)
        self.num_envs, self.chunk, self.workers = lanes, chunk, 0
        self.robot_spec = world.spec
        self.single_observation_space, self.single_action_space = _spaces(world.spec)
        self.observation_space = batch_space(self.single_observation_space, lanes)
        self.action_space = batch_space(self.single_action_space, lanes)
        number, device = world.task_number(task.name), world.device
        own = (starts.task == number).numpy()
        self._first = np.flatnonzero(own & starts.first.numpy())
        self._others = np.flatnonzero(own & ~starts.first.numpy())
        if not len(self._first) or (self.config.anywhere and not len(self._others)):
            raise ConfigError(f"The world model has no recorded window of task {task.name} to start from.")
        self._starts = starts
        horizon, size = world.config.history, world.spec.action.size
        self._history = torch.zeros((lanes, horizon, *world.frame_shape), device=device)
        self._past = torch.zeros((lanes, horizon - 1, size), device=device)
        self._noise = torch.zeros((lanes, *world.noise_shape), device=device)
        self._generators = [torch.Generator(device) for _ in range(lanes)]
        self._task = torch.full((lanes,), number, device=device)
        self._streak = np.zeros(lanes, np.int64)
        self._clock = np.zeros(lanes, np.int64)
        self._lost = np.zeros(lanes, bool)
        self._ended = np.ones(lanes, bool)
        self._counts = dict.fromkeys(("steps", "clipped", "doubt", "doubted", "diverged"), 0.0)

    @torch.inference_mode()
    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start the lanes in ``options["reset_mask"]`` (all by default) with recorded windows."""
        mask, seeds = self.asked_to_reset(seed, options)
        lanes = np.flatnonzero(mask)
        chosen = torch.tensor([self._choose(seeds[lane]) for lane in lanes], dtype=torch.int64)
        for lane in lanes:
            self._generators[lane].manual_seed(derive(seeds[lane], "imagined"))
        if len(lanes):
            starts, device, where = self._starts, self.world.device, torch.from_numpy(lanes)
            seen = {key: value[chosen].to(device) for key, value in starts.observation.items()}
            self._history[where] = self.world.join(seen).float()
            before = starts.action[chosen, :-1].masked_fill(~starts.real[chosen, :-1, None], torch.nan)
            self._past[where] = before.to(device)
        for array, value in ((self._streak, 0), (self._clock, 0), (self._lost, False), (self._ended, False)):
            array[mask] = value
        return _arrays(self.world.split(self._history[:, -1])), {}

    @torch.inference_mode()
    def step_chunk(
        self, actions: np.ndarray | None, *, length: int | None = None, active: np.ndarray | None = None
    ) -> ChunkStep:
        """Imagine a chunk in every active lane; a lane stops where its episode ends.

        Raises:
            ConfigError: no actions (an imagination has no scripted expert), or not finite ones.
        """
        if actions is None:
            raise ConfigError("An imagined environment has no scripted expert; give actions.")
        lanes, length = self.num_envs, actions.shape[1]
        if actions.shape != (lanes, length, self.robot_spec.action.size) or not 1 <= length <= self.chunk:
            raise ConfigError(
                f"step_chunk wants [{lanes}, 1 to {self.chunk}, {self.robot_spec.action.size}] actions, got "
                f"{list(actions.shape)}."
            )
        chosen = np.ones(lanes, bool) if active is None else np.asarray(active, bool)
        running = chosen & ~self._lost
        if (ended := running & self._ended).any():
            raise ConfigError(f"Lanes {np.flatnonzero(ended).tolist()} have ended; reset them first.")
        if not np.isfinite(actions[running]).all():
            raise ConfigError(f"An action for task {self.task.name} is not finite.")
        given = torch.as_tensor(actions, dtype=torch.float32, device=self.world.device)
        steps = np.zeros(lanes, np.int64)
        success = np.zeros((lanes, length), bool)
        terminated, truncated = np.zeros(lanes, bool), np.zeros(lanes, bool)
        frames: list[Tensor] = []
        for j in range(length):
            if running.any():
                with products_of(lanes):
                    doubt, clipped, solved, sound = self._imagine(torch.nan_to_num(given[:, j]), running)
                self._lost |= running & ~sound
                running &= sound
                steps += running
                self._clock += running
                self._count(running, doubt, clipped)
                success[:, j] = solved & running
                doubted = running & ~success[:, j] & self._too_doubtful(doubt)
                self._counts["doubted"] += int(doubted.sum())
                terminated |= success[:, j] | doubted
                truncated |= running & ~terminated & (self._clock >= self.task.horizon)
                running &= ~(terminated | truncated)
            frames.append(self._history[:, -1])
        lost = self._lost & chosen
        self._counts["diverged"] += int((lost & ~self._ended).sum())
        for array in (steps, terminated, truncated, success):
            array[lost] = 0
        self._ended |= terminated | truncated | lost
        return ChunkStep(
            observations=_arrays(self.world.split(torch.stack(frames, 1))),
            actions=np.array(actions, np.float32),
            rewards=success.astype(np.float64),
            success=success,
            steps=steps,
            terminated=terminated,
            truncated=truncated,
            lost=lost,
        )

    def sibling(self, lanes: int) -> ImaginedVectorEnv:
        """Further lanes of the same, for evaluations between practice."""
        return ImaginedVectorEnv(
            self.world, self._starts, self.task, lanes, chunk=self.chunk, config=self.config
        )

    def statistics(self) -> dict[str, float]:
        """Since the last call: share of clipped actions, mean disagreement, episodes ended by it and lost."""
        counts, steps = self._counts, max(self._counts["steps"], 1.0)
        self._counts = dict.fromkeys(counts, 0.0)
        return {
            "imagined_clipped": counts["clipped"] / steps,
            "imagined_doubt": counts["doubt"] / steps,
            "imagined_doubted": counts["doubted"],
            "imagined_diverged": counts["diverged"],
        }

    def on_frame(self, hook: FrameHook | None) -> None:
        """An imagination is not rendered."""
        raise ConfigError("An imagined environment cannot be watched; robopolicy.world.film films one.")

    def close_extras(self, **kwargs: Any) -> None:
        """Nothing to stop."""

    def _imagine(
        self, action: Tensor, running: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """One step of the running lanes: disagreement, clipped, success, plausible, `[B]` each."""
        world = self.world
        for lane in np.flatnonzero(running):
            self._noise[lane].normal_(generator=self._generators[lane])
        actions = torch.cat([self._past, action[:, None]], 1)
        # Every lane is computed, so that a lane's numbers never depend on which others run.
        made = world.imagine(self._history, actions, self._task, self._noise)
        sound = world.plausible(made.frame)
        moving = torch.from_numpy(running).to(sound.device) & sound
        history = torch.cat([self._history[:, 1:], made.frame[:, None]], 1)
        self._history = torch.where(_beside(moving, history), history, self._history)
        self._past = torch.where(_beside(moving, self._past), actions[:, 1:], self._past)
        high = world.succeeded(made.frame, self._task) > world.threshold
        high_now = (high & moving).cpu().numpy()
        self._streak[running] = np.where(high_now, self._streak + 1, 0)[running]
        solved = self._streak >= int(world.consecutive)
        return made.doubt.cpu().numpy(), made.clipped.cpu().numpy(), solved, sound.cpu().numpy()

    def _too_doubtful(self, doubt: np.ndarray) -> np.ndarray:
        if self.config.pessimism is None:
            return np.zeros(self.num_envs, bool)
        return doubt > self.config.pessimism * float(self.world.usual_doubt)

    def _count(self, running: np.ndarray, doubt: np.ndarray, clipped: np.ndarray) -> None:
        self._counts["steps"] += int(running.sum())
        self._counts["clipped"] += int(clipped[running].sum())
        self._counts["doubt"] += float(doubt[running].sum())

    def _choose(self, seed: int) -> int:
        generator = rng(seed, "start")
        among = self._others if generator.random() < self.config.anywhere else self._first
        return int(among[generator.integers(len(among))])


def require_spec(world: World, spec: Spec) -> None:
    """Raise unless a world model imagines what a policy of this spec sees.

    Raises:
        DataError: names the keys it lacks.
    """
    missing = sorted(set(spec.observations) - set(world.spec.observations))
    if missing:
        raise DataError(
            f"The world model does not imagine {missing}; it was trained on "
            f"{sorted(world.spec.observations)}. Train one with observations=[...] of the policy's."
        )
    spec.require(world.spec, "world model")


def _beside(flags: Tensor, value: Tensor) -> Tensor:
    return flags.view(-1, *[1] * (value.ndim - 1))


def _arrays(observation: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {key: value.cpu().numpy().copy() for key, value in observation.items()}


def _spaces(spec: Spec) -> tuple[spaces.Dict, spaces.Box]:
    boxes: dict[str, spaces.Space[Any]] = {
        key: spaces.Box(0, 255, o.shape, np.uint8)
        if o.kind == "image"
        else spaces.Box(-np.inf, np.inf, o.shape, np.float32)
        for key, o in spec.observations.items()
    }
    action = spec.action
    low, high = np.array(action.low, np.float32), np.array(action.high, np.float32)
    return spaces.Dict(boxes), spaces.Box(low, high, (action.size,), np.float32)
