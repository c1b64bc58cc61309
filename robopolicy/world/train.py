"""From recorded episodes to a world model one can practise in: what ``scripts/train_world.py`` runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robopolicy.codecs import Codec, CodecConfig
from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import split_episodes
from robopolicy.device import choose_device
from robopolicy.errors import ConfigError, DataError
from robopolicy.learning.checkpoint import save_checkpoint
from robopolicy.learning.run import open_run
from robopolicy.learning.train import choose_observations
from robopolicy.learning.trainer import Trainer, TrainerConfig
from robopolicy.model import Provenance
from robopolicy.registry import build, plain
from robopolicy.spec import Spec
from robopolicy.task import Task
from robopolicy.world.recordings import Recordings, Source
from robopolicy.world.replay import Episode, Replay, replay
from robopolicy.world.starts import Starts
from robopolicy.world.success import Rule, choose_rule
from robopolicy.world.world import FINISHED, TASK, World

__all__ = [
    "ANCHOR",
    "MAY_CHANGE",
    "PICTURES",
    "USUAL",
    "WINDOWS",
    "Held",
    "TrainWorldConfig",
    "WorldTraining",
    "held_out",
    "one_step",
    "prepare",
    "set_rule",
]

MAY_CHANGE = ("device", "trainer.threads", "trainer.wandb", "trainer.keep")
ANCHOR = 25
"""Steps after which a held-out episode is taken up again where it really was, to set the rule of success."""
WINDOWS, PICTURES = 2048, 64
"""Held-out windows, of states and of pictures, that tell how much of a step's change is explained."""
USUAL = 0.99
"""Quantile of the disagreement on held-out episodes that counts as usual."""


@dataclass(frozen=True, kw_only=True)
class TrainWorldConfig:
    """The root of ``configs/train_world.yaml``."""

    world: Mapping[str, Any]
    trainer: TrainerConfig
    data: tuple[str, ...]
    """Stores: demonstrations, a policy's episodes, random ones, of one task or of several."""
    weights: tuple[int, ...] = ()
    """How often each store's windows count; once by default."""
    observations: tuple[str, ...] = ()
    """Keys; by default what the kind of world model predicts."""
    validation: float = 0.2
    """Share of each store's episodes held out: for the success rule and the fidelity."""
    seed: int = 0
    name: str = "default"
    out: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError("Give data=[expert.zarr,policy.zarr,random.zarr].")
        if not 0 < self.validation < 1:
            raise ConfigError(f"validation must be in (0, 1), got {self.validation}.")
        if self.weights and (len(self.weights) != len(self.data) or min(self.weights) < 1):
            raise ConfigError(
                f"weights needs one number >= 1 for each of the {len(self.data)} stores, got "
                f"{list(self.weights)}."
            )


@dataclass(frozen=True)
class Held:
    """Held-out episodes."""

    episodes: list[Episode]
    tasks: list[int]
    succeeded: np.ndarray
    """Bool `[N]`."""
    seeds: list[int]


class WorldTraining:
    """Training, then the rule of success and the usual disagreement, set on held-out episodes."""

    def __init__(
        self, config: TrainWorldConfig, trainer: Trainer[World], held: Held, starts: Starts, directory: Path
    ) -> None:
        self.config, self.trainer, self.held, self.starts = config, trainer, held, starts
        self.directory = directory

    def run(self) -> World:
        """Train (or go on), set the rule, and keep the result in `FINISHED`."""
        world = self.trainer.train()
        imagined, rule = set_rule(world, self.held)
        if world.members > 1:
            world.usual_doubt.fill_(float(imagined.doubt[imagined.recorded].quantile(USUAL)))
        save_checkpoint(self.directory / FINISHED, world)
        self.starts.save(self.directory / FINISHED)
        assert isinstance(self.trainer.validation, Recordings)
        found = {"one_step": one_step(world, self.trainer.validation), **plain(rule)}
        (self.directory / "held_out.json").write_text(json.dumps(found, indent=1) + "\n")
        return world

    def summary(self) -> str:
        """What held-out episodes say of it, for people."""
        found = json.loads((self.directory / "held_out.json").read_text())
        rates = {name: f"{found[name]:.0%} of {found[of]}" for name, of in (
            ("true_success", "successes"), ("false_success", "failures"),
        )}  # fmt: skip
        return (
            f"Of held-out episodes one step explains {found['one_step']:.0%} of what changes. Success is "
            f"{found['consecutive']} frames in a row above {found['threshold']:g}, which finds "
            f"{rates['true_success']} successes, and takes {rates['false_success']} failures for one."
        )


def set_rule(world: World, held: Held) -> tuple[Replay, Rule]:
    """Choose the rule of success on held-out episodes and keep it in the model.

    They are imagined in parts, so that the rule is about what success looks like; after a hundred steps under
    recorded actions, to which no policy responds, an imagination has often left the recording.
    """
    imagined = replay(world, held.episodes, held.tasks, anchor=ANCHOR)
    rule = choose_rule(imagined.success.cpu().numpy(), imagined.recorded.cpu().numpy(), held.succeeded)
    world.threshold.fill_(rule.threshold)
    world.consecutive.fill_(rule.consecutive)
    return imagined, rule


@torch.inference_mode()
def one_step(world: World, recordings: Recordings) -> float:
    """Share of the variance of one step's change that a step of imagination explains, over all numbers."""
    most = WINDOWS if len(world.frame_shape) == 1 else PICTURES
    index = torch.arange(0, len(recordings), max(1, len(recordings) // most))
    batch, horizon = recordings.gather(index), world.config.history
    assert batch.mask is not None
    inside = batch.mask[:, -2]
    frames = world.join(batch.observation)[inside, -horizon - 1 :].float()
    acted = batch.action.masked_fill(~batch.mask[..., None], torch.nan)[inside, -horizon - 1 : -1]
    now, real = frames[:, -2], frames[:, -1]
    generator = torch.Generator(world.device).manual_seed(0)
    noise = torch.randn((len(now), *world.noise_shape), generator=generator, device=world.device)
    made = world.imagine(frames[:, :-1], acted, batch.observation[TASK][inside], noise).frame
    change, off = (real - now) / world.unit, (made - real) / world.unit
    return float(1 - off.square().sum() / (change - change.mean(0)).square().sum())


def prepare(config: TrainWorldConfig, *, progress: bool = True) -> WorldTraining:
    """Everything before the first step.

    Raises:
        SpecMismatch: the stores differ in their observations or actions.
        DataError: a store without a task or without successes.
    """
    stores = [EpisodeStore.open(path) for path in config.data]
    tasks = [_task_of(store) for store in stores]
    names = list(dict.fromkeys(task.name for task in tasks))
    spec = _observed(stores[0], config)
    for store in stores[1:]:
        spec.require(store.spec, f"store {store.where}")
    device = choose_device(config.device)
    splits = [split_episodes(store, config.validation, config.seed) for store in stores]
    numbers = [names.index(task.name) for task in tasks]
    weights = config.weights or (1,) * len(stores)
    torch.manual_seed(config.seed)
    codec = Codec(CodecConfig(observation="identity", action="identity"), spec)
    settings = {**config.world, "tasks": names}
    world: World = build("world", settings, spec=spec, codec=codec).to(device)
    length = world.config.history + getattr(world.config, "unroll", 1)

    def recordings(part: int) -> Recordings:
        sources = [
            Source(store, tuple(split[part]), number, weight)
            for store, split, number, weight in zip(stores, splits, numbers, weights, strict=True)
        ]
        return Recordings(sources, keys=list(spec.observations), length=length, device=device)

    training, validation = recordings(0), recordings(1)
    world.fit(training)
    for each in (training, validation):
        world.annotate(each)
    world.provenance = Provenance(
        task=tasks[0],
        used_seeds=tuple(dict.fromkeys(int(s) for store in stores for s in store.seeds if s >= 0)),
        fingerprint="+".join(store.fingerprint() for store in stores),
        config=plain(config),
    )
    directory = Path(config.out or f"outputs/{'+'.join(names)}/world/{config.name}/seed{config.seed}")
    open_run(directory, {**plain(config), "fingerprint": world.provenance.fingerprint}, ignore=MAY_CHANGE)
    trainer = Trainer(
        config.trainer, world, training, directory,
        seed=config.seed, validation=validation, run_config=plain(config), progress=progress,
    )  # fmt: skip
    held = held_out(stores, [split[1] for split in splits], numbers, list(spec.observations))
    return WorldTraining(config, trainer, held, Starts.of(training, world.config.history), directory)


def held_out(
    stores: list[EpisodeStore], chosen: list[list[int]], numbers: list[int], keys: list[str]
) -> Held:
    """Those episodes, whole."""
    episodes: list[Episode] = []
    tasks: list[int] = []
    succeeded: list[bool] = []
    seeds: list[int] = []
    for store, indices, number in zip(stores, chosen, numbers, strict=True):
        for index in indices:
            arrays = store.episode(index)
            episodes.append({key: arrays[key] for key in (*keys, "action")})
            tasks.append(number)
            succeeded.append(bool(store.successes[index] == 1))
            seeds.append(int(store.seeds[index]))
    return Held(episodes, tasks, np.array(succeeded), seeds)


def _task_of(store: EpisodeStore) -> Task:
    if store.task is None:
        raise DataError(f"{store.where} does not name its task. Collect with scripts/collect.py.")
    return Task.from_dict(store.task)


def _observed(store: EpisodeStore, config: TrainWorldConfig) -> Spec:
    kind = "state" if config.world.get("name") == "state" else "image"
    keys = config.observations or tuple(k for k, o in store.spec.observations.items() if o.kind == kind)
    if not keys:
        raise DataError(
            f"{store.where} has no observation of kind {kind}: {sorted(store.spec.observations)}."
        )
    return choose_observations(store.spec, keys)
