"""From a configuration to a trained policy: what ``scripts/train.py`` runs."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from robopolicy.codecs import Codec, CodecConfig
from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import Windows, split_episodes
from robopolicy.device import choose_device
from robopolicy.errors import ConfigError, DataError
from robopolicy.learning.checkpoint import check_tensors, find_checkpoint, read_tensors
from robopolicy.learning.run import open_run
from robopolicy.learning.trainer import Check, Trainer, TrainerConfig
from robopolicy.model import Provenance
from robopolicy.policies.policy import Policy
from robopolicy.registry import build, config_class, get, parse, plain
from robopolicy.spec import GOAL, INSTRUCTION, TEXT, Spec
from robopolicy.task import Task

__all__ = [
    "FIT_BATCH",
    "MAY_CHANGE",
    "PICTURE_BATCH",
    "DuringConfig",
    "TrainConfig",
    "all_windows",
    "cache_features",
    "choose_observations",
    "load_cameras",
    "prepare",
]

FIT_BATCH, PICTURE_BATCH = 4096, 256
MAY_CHANGE = (
    "device",
    "cache",
    "wandb",
    "trainer.threads",
    "trainer.wandb",
    "trainer.keep",
    "trainer.best",
    "evaluate.workers",
)


@dataclass(frozen=True, kw_only=True)
class DuringConfig:
    """Evaluations in the environment every `trainer.evaluate_every` steps."""

    episodes: int = 20
    lanes: int = 10
    workers: int = 2

    def __post_init__(self) -> None:
        if min(self.episodes, self.lanes) < 1 or self.workers < 0:
            raise ConfigError("evaluate needs episodes, lanes >= 1 and workers >= 0.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The root of ``configs/train.yaml``."""

    policy: Mapping[str, Any]
    trainer: TrainerConfig
    task: Mapping[str, Any] | None = None
    data: str | None = None
    """Zarr store; ``data/<task>.zarr`` by default."""
    demonstrations: int | None = None
    """Training episodes used; all by default."""
    observations: tuple[str, ...] = ()
    """Observation keys; what the encoder reads by default (see `choose_observations`)."""
    validation: float = 0.02
    """Share of episodes held out."""
    past_actions: int | None = None
    """Of the To-1 actions before the present, those that are learned (PTP); all by default."""
    codec: CodecConfig = field(default_factory=CodecConfig)
    cache: Literal["auto", "device", "memmap"] = "auto"
    seed: int = 0
    name: str = "default"
    out: str | None = None
    device: str = "auto"
    evaluate: DuringConfig = field(default_factory=DuringConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise ConfigError(f"validation must be in [0, 1), got {self.validation}.")
        if self.task is None and self.data is None:
            raise ConfigError("Give task=... (then data/<task>.zarr is read) or data=path/to/store.zarr.")

    @property
    def store_path(self) -> str:
        """Where the demonstrations are."""
        assert self.task is not None or self.data is not None
        return self.data or f"data/{(self.task or {})['name']}.zarr"

    @property
    def directory(self) -> Path:
        """The run's directory."""
        source = self.task["name"] if self.task else Path(self.store_path.rstrip("/")).stem
        default = f"outputs/{source}/{self.policy['name']}/{self.name}/seed{self.seed}"
        return Path(self.out or default)


def prepare(
    config: TrainConfig,
    *,
    evaluate: Check | None = None,
    progress: bool = True,
) -> Trainer[Policy]:
    """A trainer, new or where the run in its directory stopped."""
    if config.task is not None and config.data is None and not Path(config.store_path).exists():
        raise DataError(
            f"There are no demonstrations at {config.store_path}. Collect some with scripts/collect.py "
            f"task={config.task['name']}, or give data=path/to/store.zarr."
        )
    store = EpisodeStore.open(config.store_path)
    encoder = config.policy.get("encoder", {})
    spec = choose_observations(store.spec, config.observations, encoder)
    task = (
        Task.from_dict(config.task) if config.task else (Task.from_dict(store.task) if store.task else None)
    )
    if task is not None and not task.goals and set(spec.goals) - set(store.spec.observations):
        task = replace(task, goals=config.store_path)  # what was learned from ends is told by ends
    train, held_out = split_episodes(store, config.validation, config.seed, limit=config.demonstrations)
    device = choose_device(config.device)
    horizons = _horizons(config.policy)

    def windows(episodes: list[int]) -> Windows:
        return Windows(
            store,
            obs_keys=list(spec.observations),
            episodes=episodes,
            device=device,
            cache=config.cache,
            obs_horizon=horizons["obs_horizon"],
            pred_horizon=horizons["pred_horizon"],
            action_horizon=horizons["action_horizon"],
            past_actions=config.past_actions,
        )

    training, validation = windows(train), windows(held_out) if held_out else None
    torch.manual_seed(config.seed)
    codec = Codec(config.codec, spec).to(device)
    codec.fit(all_windows(training, device))
    policy = build("policy", config.policy, spec=spec, codec=codec).to(device)
    if encoder.get("weights"):
        load_cameras(policy, encoder["weights"])
    seen = [int(store.seeds[i]) for i in [*train, *held_out] if store.seeds[i] >= 0]
    policy.provenance = Provenance(
        task=task,
        used_seeds=tuple(dict.fromkeys((*policy.provenance.used_seeds, *seen))),  # a part's own come first
        fingerprint=store.fingerprint(),
        config=plain(config),
    )
    if encoder.get("frozen"):
        for part in (training, *filter(None, (validation,))):
            cache_features(policy, part)
    # Only now: settings that cannot work leave no directory behind that refuses those that can.
    open_run(
        config.directory,
        {**plain(config), "data_fingerprint": policy.provenance.fingerprint},
        ignore=MAY_CHANGE,
    )
    return Trainer(
        config.trainer,
        policy,
        training,
        config.directory,
        seed=config.seed,
        validation=validation,
        evaluate=evaluate,
        run_config=plain(config),
        progress=progress,
    )


def all_windows(windows: Windows, device: torch.device) -> Iterator[tuple[Mapping[str, Tensor], Tensor]]:
    """Every window once, in large batches: what a codec is fitted on."""
    first = windows.gather(torch.zeros(1, dtype=torch.int64, device=device)).observation.values()
    batch_size = FIT_BATCH if all(value.dtype == torch.float32 for value in first) else PICTURE_BATCH
    for start in range(0, len(windows), batch_size):
        index = torch.arange(start, min(start + batch_size, len(windows)), device=device)
        batch = windows.gather(index).to(device)
        yield batch.observation, batch.action


def choose_observations(
    spec: Spec, keys: tuple[str, ...] = (), encoder: Mapping[str, Any] | None = None
) -> Spec:
    """The spec with these keys, or with those that the encoder is for; a text encoder adds the instruction.

    Without keys, an encoder of states gets all of them, one of images the images and, because where objects
    are is for the images to tell, the states that are not of the group "object".
    """
    encoder = encoder or {"name": "state"}
    sees = encoder["name"] != "state"
    chosen = list(keys) or [
        key
        for key, o in spec.observations.items()
        if (o.kind == "state" and not (sees and o.group == "object")) or (sees and o.kind == "image")
    ]
    if not chosen:
        raise DataError(f"The store has no state observation (keys: {sorted(spec.observations)}).")
    if encoder.get("text") is not None or INSTRUCTION in chosen:
        chosen = [key for key in chosen if key != INSTRUCTION] + [INSTRUCTION]
        spec = replace(spec, observations={**spec.observations, INSTRUCTION: TEXT})
    goals = {  # what an observation should become: see `Windows`
        key: replace(spec.observations[base], group="goal")
        for key in chosen
        if key not in spec.observations
        and key.startswith(GOAL)
        and (base := key.removeprefix(GOAL)) in spec.observations
    }
    return replace(spec, observations={**spec.observations, **goals}).select(chosen)


def load_cameras(policy: Policy, path: str) -> None:
    """Copy another policy's vision networks into this one's.

    Raises:
        CheckpointError: the other has none, or of other sizes.
    """
    found = read_tensors(find_checkpoint(path) / "policy.safetensors")
    cameras = policy.get_submodule("encoder.cameras")
    prefix = "encoder.cameras."
    tensors = {name[len(prefix) :]: value for name, value in found.items() if name.startswith(prefix)}
    check_tensors(cameras.state_dict(), tensors, Path(path))
    cameras.load_state_dict(tensors)


def cache_features(policy: Policy, windows: Windows) -> None:
    """Replace the pictures of windows by the features that the policy's (frozen) encoder gives them."""
    encoder: Any = policy.get_submodule("encoder")

    def features(key: str, rows: Tensor) -> Tensor:
        return encoder.embed(key, policy.codec.encode_image(rows)[:, None])[:, 0]

    for key in encoder.images:
        windows.replace_rows(key, functools.partial(features, key))


def _horizons(policy: Mapping[str, Any]) -> dict[str, int]:
    cls = config_class(get("policy", policy["name"]))
    config: Any = parse(cls, {k: v for k, v in policy.items() if k != "name"}, f"policy={policy['name']}")
    return {name: getattr(config, name) for name in ("obs_horizon", "pred_horizon", "action_horizon")}
