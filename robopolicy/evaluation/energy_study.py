"""Energy beside four simpler signals on one policy's episodes: what ``scripts/energy_signal.py`` runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError, DataError
from robopolicy.evaluation.energy_signal import (
    DenoisingLoss,
    NearestTraining,
    SampleVariance,
    Signal,
    SignalActor,
    disturbed_against_nominal,
    elapsed,
    failing_against_succeeding,
)
from robopolicy.evaluation.evaluate import evaluate
from robopolicy.evaluation.machine import stamp
from robopolicy.registry import plain
from robopolicy.seeding import rng
from robopolicy.spec import Spec

if TYPE_CHECKING:
    from robopolicy.evaluation.statistics import Interval

__all__ = ["EnergyStudyConfig", "biased", "run_study"]


@dataclass(frozen=True, kw_only=True)
class EnergyStudyConfig:
    """The root of ``configs/energy_signal.yaml``."""

    checkpoint: str
    """A policy with an energy."""
    reference: str
    """A diffusion policy of the same task, for the variance of its samples and its denoising loss."""
    data: str
    """The demonstrations both were trained on, for the distance to them."""
    group: str = "object"
    """Modality group that is disturbed."""
    bias: float = 0.05
    """Deviation of the constant error of its readings, drawn for each key and dimension, in their units."""
    episodes: int = 100
    lanes: int = 10
    workers: int = 2
    block: str = "report"
    offset: int = 0
    out: str = "results/checks"
    device: str = "auto"

    def __post_init__(self) -> None:
        if min(self.episodes, self.lanes) < 1 or self.workers < 0 or self.bias <= 0:
            raise ConfigError("energy_signal needs episodes, lanes >= 1, workers >= 0 and bias > 0.")


def run_study(config: EnergyStudyConfig) -> tuple[Path, dict[str, Any]]:
    """AUROC of every signal, for failing episodes and for biased readings; written to one file.

    Raises:
        ConfigError: no observation is of the group, or the policy was not trained on the data.
        MissingCapability: the policy has no energy.
    """
    from robopolicy.data.windows import Windows
    from robopolicy.device import choose_device
    from robopolicy.learning.checkpoint import load
    from robopolicy.policies.denoising import DenoisingPolicy

    device = choose_device(config.device)
    policy, reference = load(config.checkpoint, device=device), load(config.reference, device=device)
    task = policy.provenance.task
    if task is None or not isinstance(reference, DenoisingPolicy):
        raise ConfigError("energy_signal needs a checkpoint with a task, and a reference that denoises.")
    store = EpisodeStore.open(config.data)
    learned = {*policy.provenance.used_seeds}
    trained = [i for i, seed in enumerate(store.seeds.tolist()) if seed in learned]
    if not trained:
        raise ConfigError(f"{config.checkpoint} was trained on no episode of {config.data}.")
    windows = Windows(
        store, obs_keys=list(policy.spec.observations), episodes=trained, device=device,
        obs_horizon=policy.obs_horizon, pred_horizon=policy.pred_horizon,
        action_horizon=policy.action_horizon,
    )  # fmt: skip
    signals: dict[str, Signal] = {
        "elapsed time": elapsed,
        "nearest training data": NearestTraining(policy, windows),
        "variance of 16 samples": SampleVariance(reference),
        "denoising loss": DenoisingLoss(reference),
    }
    actor = SignalActor(policy, signals, biased(policy.spec, config.group, config.bias))
    used = {*policy.provenance.used_seeds, *reference.provenance.used_seeds, *store.seeds.tolist()}
    measured = evaluate(
        actor, task, episodes=config.episodes, block=config.block, offset=config.offset, lanes=config.lanes,
        workers=config.workers, used_seeds=used,
    )  # fmt: skip
    found: dict[str, Any] = {
        "config": plain(config),
        "task": task.name,
        "policy": policy.registered_name,
        "success": asdict(measured.success),
        "biased readings": _plain(disturbed_against_nominal(actor.disturbed, actor.scores, measured.rows)),
        **stamp(),
    }
    for name, matched in (("failing, matched times", True), ("failing, any time", False)):
        try:
            found[name] = _plain(failing_against_succeeding(actor.scores, measured.rows, matched=matched))
        except DataError as error:
            found[name] = str(error)
    path = Path(config.out) / f"energy_signal_{task.name}_{found['policy']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    return path, found


def biased(spec: Spec, group: str, deviation: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A constant error of every state of a group, the same for all observations.

    Raises:
        ConfigError: no state is of that group.
    """
    keys = [key for key, o in spec.observations.items() if o.group == group and o.kind == "state"]
    if not keys:
        groups = sorted({o.group for o in spec.observations.values()})
        raise ConfigError(f"No state the policy sees is of group {group!r}; their groups are {groups}.")
    errors = {
        key: rng(0, f"bias/{key}").normal(0, deviation, spec.observations[key].shape).astype(np.float32)
        for key in keys
    }

    def disturb(observation: dict[str, Any]) -> dict[str, Any]:
        return {**observation, **{key: observation[key] + error for key, error in errors.items()}}

    return disturb


def _plain(intervals: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: asdict(interval) for name, interval in intervals.items()}
