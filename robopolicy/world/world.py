"""What every world model is: next frames from past ones and actions, and whether a frame is a success."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from robopolicy.codecs import Codec
from robopolicy.codecs.action import ActionTransform
from robopolicy.diffusion.noise import SigmaRange, sampling_sigmas
from robopolicy.errors import CheckpointError, ConfigError, unknown
from robopolicy.learning.checkpoint import load_model
from robopolicy.model import Model
from robopolicy.spec import Spec
from robopolicy.world.two_hot import ActionCode, Encoding

if TYPE_CHECKING:
    from robopolicy.world.recordings import Recordings

__all__ = [
    "FINISHED",
    "LEVELS",
    "SUCCESS",
    "TASK",
    "Imagined",
    "World",
    "WorldConfig",
    "find_world",
    "load_world",
]

SUCCESS, TASK = "world/success", "world/task"
"""What `Recordings` add to the observations of a batch."""
LEVELS = 100
FINISHED = "world"
"""Directory of a run that holds the trained model and its starts."""


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """What the state and the pixel version share."""

    tasks: tuple[str, ...] = ()
    """Names of the tasks it knows, in the order of their numbers."""
    history: int = 4
    """H: frames and actions seen, the present ones included."""
    encoding: Encoding = "two_hot"
    bins: int = 21
    steps: int = 3
    """Of Euler's method, for one environment step."""
    sigma_low: float = 0.002
    sigma_high: float = 5.0
    location: float = -0.4
    """Of the logarithm of the noise in training, as in EDM and DIAMOND."""
    scale: float = 1.2

    def __post_init__(self) -> None:
        if self.history < 1 or self.steps < 1 or self.scale <= 0:
            raise ConfigError(f"world needs history, steps >= 1 and scale > 0, got {self}.")
        if not 0 < self.sigma_low < self.sigma_high:
            raise ConfigError(
                f"world needs 0 < sigma_low < sigma_high, got {self.sigma_low}, {self.sigma_high}."
            )


@dataclass(frozen=True)
class Imagined:
    """One environment step in B lanes."""

    frame: Tensor
    """`[B, *F]`."""
    doubt: Tensor
    """How far the members of an ensemble disagree about it, `[B]`; 0 without an ensemble."""
    clipped: Tensor
    """Whether the present action lies beyond the bins, bool `[B]`."""


class World(Model, abc.ABC):
    """Frames `[*F]` are what it predicts: `join` makes them of observations, `split` gives those back.

    One call is one environment step. A success is `consecutive` frames in a row whose success model says more
    than `threshold`; both are set on held-out failures after training.
    """

    kind = "world"
    capabilities: ClassVar[frozenset[str]] = frozenset({"trainable"})
    frame_shape: tuple[int, ...]
    """F."""
    noise_shape: tuple[int, ...]
    """Of the standard-normal start of one step."""
    members = 1
    """Of an ensemble."""
    action_low: Tensor
    action_high: Tensor
    threshold: Tensor
    consecutive: Tensor
    usual_doubt: Tensor
    """The ensemble's disagreement that 1% of held-out steps exceed."""

    def __init__(self, config: WorldConfig, *, spec: Spec, codec: Codec) -> None:
        super().__init__(spec, codec)
        self.config = config
        moving = {part.reference for part in spec.action.parts if part.reference and part.kind != "gripper"}
        self.relative = bool(moving) and moving <= spec.observations.keys()
        self.transform = ActionTransform(spec, "relative" if self.relative else "absolute", rot6d=False)
        self.code = ActionCode(config.encoding, config.bins, self.transform.size)
        levels = SigmaRange(config.sigma_low, config.sigma_high)
        self.sigmas = sampling_sigmas(config.steps, LEVELS, levels, "karras")
        self.register_buffer("action_low", torch.full((self.transform.size,), -1.0))
        self.register_buffer("action_high", torch.full((self.transform.size,), 1.0))
        self.register_buffer("threshold", torch.tensor(0.5))
        self.register_buffer("consecutive", torch.tensor(1))
        self.register_buffer("usual_doubt", torch.tensor(0.0))

    def task_number(self, name: str) -> int:
        """Of a task it knows.

        Raises:
            ConfigError: it does not; lists those it does.
        """
        if name not in self.config.tasks:
            raise ConfigError(unknown("task of this world model", name, self.config.tasks))
        return self.config.tasks.index(name)

    def fit(self, recordings: Recordings) -> None:
        """Statistics of the training episodes; the bins span the action's bounds, or else its data."""
        asked = self.asked(recordings.action, recordings.observation)
        for mine, bounds, seen in (
            (self.action_low, self.spec.action.low, asked.amin(0)),
            (self.action_high, self.spec.action.high, asked.amax(0)),
        ):
            bound = torch.full_like(mine, torch.inf)
            for (part, there), here in zip(self.transform.parts, self.transform.slices, strict=True):
                if not (self.relative and part.reference) or part.kind == "gripper":
                    bound[here] = torch.tensor(bounds[there], dtype=mine.dtype, device=mine.device)
            mine.copy_(torch.where(bound.isfinite(), bound, seen))

    def annotate(self, recordings: Recordings) -> None:
        """Add to their observations what else `join` takes, once the statistics are known."""
        del recordings

    def frames(self, episode: Mapping[str, np.ndarray]) -> Tensor:
        """The frames `[T, *F]` of an episode: observations before each action, and "action"."""
        keys = self.spec.observations
        return self.join({key: torch.as_tensor(episode[key], device=self.device) for key in keys}).float()

    def asked(self, action: Tensor, observation: Mapping[str, Tensor]) -> Tensor:
        """What actions `[N, Da]` ask for, `[N, Dz]`: a pose is told from the present one.

        A pose in the world is metres, what it changes in a step millimetres, which no bin would show.
        """
        if not self.relative:
            return action
        keys = {part.reference for part in self.spec.action.parts if part.reference}
        seen = {key: observation[key][:, None] for key in keys}
        return self.transform.encode(action[:, None], seen)[:, 0]

    def encode_actions(self, actions: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """Features `[B, H, size]` of actions `[B, H, Da]` in frames `[B, H, *F]`, and which were clipped.

        Actions that are not numbers, before an episode, have features 0.
        """
        none = actions.isnan().any(-1, keepdim=True)
        known = actions.masked_fill(none, 0.0).flatten(0, 1)
        asked = self.asked(known, self.split(history.flatten(0, 1)) if self.relative else {})
        middle, half = (self.action_low + self.action_high) / 2, (self.action_high - self.action_low) / 2
        value = ((asked - middle) / half.clamp_min(1e-6)).unflatten(0, actions.shape[:2])
        return self.code(value) * ~none, (value.abs() > 1 + 1e-6) & ~none

    @property
    def unit(self) -> Tensor:
        """What errors are measured in, `[*F]`: one step's usual change; infinite for what is only copied."""
        return torch.ones(self.frame_shape, device=self.device)

    @abc.abstractmethod
    def join(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Observations `[..., *shape]` as frames `[..., *F]`."""

    @abc.abstractmethod
    def split(self, frame: Tensor) -> dict[str, Tensor]:
        """Frames `[..., *F]` as observations of the spec's dtypes."""

    @abc.abstractmethod
    def imagine(self, history: Tensor, actions: Tensor, task: Tensor, noise: Tensor) -> Imagined:
        """The next frame.

        Args:
            history: `[B, H, *F]`.
            actions: `[B, H, Da]` in the robot's units; the last row acts now. Rows before an episode: NaN.
            task: numbers, int64 `[B]`.
            noise: standard normal `[B, *noise_shape]`; row i follows member i of an ensemble, cyclically.
        """

    @abc.abstractmethod
    def succeeded(self, frame: Tensor, task: Tensor) -> Tensor:
        """Probability `[B]` that frames `[B, *F]` are a success."""

    @abc.abstractmethod
    def plausible(self, frame: Tensor) -> Tensor:
        """Whether frames `[B, *F]` are finite and not far from all data, bool `[B]`."""

    def draw_levels(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Noise levels for training: log-normal, within 0.002 and 20."""
        drawn = torch.randn(shape, generator=generator, device=self.device)
        return (self.config.location + self.config.scale * drawn).clamp(math.log(2e-3), math.log(20.0)).exp()


def find_world(path: str | Path) -> Path:
    """The finished world model, with its rule of success, of a run at or below a path.

    Raises:
        CheckpointError: there is none, or more than one.
    """
    path = Path(path)
    if (path / "world.json").exists():
        return path
    found = sorted(p.parent for p in path.rglob("world.json") if p.parent.name == FINISHED)
    if len(found) == 1:
        return found[0]
    if found:
        runs = "\n  ".join(str(each.parent) for each in found)
        raise CheckpointError(f"{path} contains {len(found)} world models; name one:\n  {runs}")
    raise CheckpointError(f"{path} contains no finished world model. scripts/train_world.py makes one.")


def load_world(path: str | Path, *, device: str | torch.device = "cpu") -> World:
    """A world model from its run.

    Raises:
        CheckpointError: there is none, or more than one.
    """
    world = load_model(find_world(path), "world", device=device)
    assert isinstance(world, World)
    return world.requires_grad_(False)
