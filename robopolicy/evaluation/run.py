"""From a configuration to a measured policy: what ``scripts/evaluate.py`` runs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError, unknown
from robopolicy.evaluation.baselines import BASELINES, baseline_in
from robopolicy.evaluation.coverage import STARTS, Coverage, coverage
from robopolicy.evaluation.evaluate import Evaluation, Measured, evaluate
from robopolicy.evaluation.plots import error_by_dimension, refinement_curve, training_curve
from robopolicy.evaluation.replay import replay_actor
from robopolicy.evaluation.report import write_report
from robopolicy.evaluation.video import record_episodes
from robopolicy.registry import plain
from robopolicy.rollout import Actor, ExpertActor, PolicyActor
from robopolicy.seeding import episode_seeds
from robopolicy.task import Task

if TYPE_CHECKING:
    from robopolicy.policies.policy import Policy

__all__ = ["SCRIPTED", "EvaluateConfig", "Outcome", "measure", "run_evaluation"]

SCRIPTED = (*BASELINES, "expert", "replay")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """The root of ``configs/evaluate.yaml``."""

    checkpoint: str | None = None
    policy: Mapping[str, Any] | None = None
    """Instead of a checkpoint: zero, random, expert or replay."""
    task: Mapping[str, Any] | None = None
    """The checkpoint's or the store's own by default."""
    data: str | None = None
    """Store for the offline error, or whose actions are replayed."""
    episodes: int = 100
    lanes: int = 10
    workers: int = 2
    block: str = "report"
    offset: int = 0
    video: int = 4
    """Episodes filmed, the first ones; 0 for none."""
    sampler: Mapping[str, Any] | None = None
    """Instead of the one that the policy was trained with."""
    steer: Mapping[str, Any] | None = None
    """What stands around the policy while it acts (`robopolicy.steering`)."""
    perturb: Mapping[str, Any] | None = None
    """What goes wrong besides: a `Perturbation`, after those of the task."""
    goals: str | None = None
    """Store whose episodes' last observations are the goals, instead of the task's."""
    coverage: int = 0
    """Episodes from each of ten starts, to count the routes taken; 0 for none."""
    out: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if (self.checkpoint is None) == (self.policy is None):
            raise ConfigError(f"Give either checkpoint=outputs/... or policy= one of {', '.join(SCRIPTED)}.")
        if self.policy is not None and self.policy["name"] not in SCRIPTED:
            hint = " A trained policy is given by its checkpoint=outputs/..."
            raise ConfigError(unknown("policy to evaluate", self.policy["name"], SCRIPTED) + hint)
        if self.sampler is not None and self.checkpoint is None:
            raise ConfigError("sampler= is another sampler for a checkpoint=outputs/...")
        if self.steer is not None and self.checkpoint is None:
            raise ConfigError("steer= changes what a checkpoint=outputs/... does.")
        counts = (self.workers, self.video, self.offset, self.coverage)
        if min(self.episodes, self.lanes) < 1 or min(counts) < 0:
            raise ConfigError("Need episodes, lanes >= 1 and workers, video, offset, coverage >= 0.")
        if self.coverage and self.checkpoint is None:
            raise ConfigError("coverage= compares a policy with the expert: it needs checkpoint=outputs/...")

    @property
    def name(self) -> str:
        """What is evaluated, in a word."""
        return self.checkpoint or str((self.policy or {})["name"])


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an evaluation left behind."""

    directory: Path
    evaluation: Evaluation | None
    """None without a task."""
    offline: Mapping[str, Any] | None
    """None without data."""


def run_evaluation(
    config: EvaluateConfig,
    *,
    title: str | None = None,
    stages: Mapping[str, float] | None = None,
    commands: tuple[str, ...] = (),
    progress: bool = True,
) -> Outcome:
    """Evaluate as configured; table, video, plots and ``report.html`` go into one directory.

    Args:
        title: of the report.
        stages: wall seconds of what came before, for the report.
        commands: what to run next, for the report.
    """
    store = None if config.data is None else EpisodeStore.open(config.data)
    policy = _load(config) if config.checkpoint is not None else None
    task = _task(config, policy, store)
    run = None if config.checkpoint is None else _run_directory(config.checkpoint)
    directory = Path(config.out) if config.out else _default_directory(config, task, run)
    offline, plots = None, {}
    if policy is not None and store is not None:
        offline = _offline(policy, store, directory, progress)
        plots["Offline error"] = directory / "offline_error.png"
    if task is None:
        if offline is None:
            hint = (
                ", or data=... for the offline error"
                if policy is not None
                else " (see --help for the choices)"
            )
            raise ConfigError(f"{config.name} has no task: give task=...{hint}.")
        return Outcome(directory=directory, evaluation=None, offline=offline)
    actor, evaluation = _evaluate(config, policy, store, task, progress)
    evaluation.save(directory)
    if (ledger := getattr(policy, "ledger", None)) is not None:
        (directory / "steering.json").write_text(json.dumps(ledger.report(), indent=1) + "\n")
        print(f"Steering: {ledger}")
    if policy is not None:
        cost = _cost(policy, actor)
        (directory / "sampling.json").write_text(json.dumps(cost, indent=1) + "\n")
        own = f" ({cost['mean_calls']:.1f} on average in these episodes)" if "mean_calls" in cost else ""
        print(f"A chunk takes {cost['ms']:.1f} ms here and {cost['calls']:.0f} network calls{own}.")
    if policy is not None and config.coverage:
        covered = _coverage(config, policy, task)
        covered.save(directory)
        print(covered.summary())
    video = _film(actor, evaluation, config.video, directory / "episodes.mp4") if config.video else None
    log = None if run is None else (run.parent if run.name == "best" else run) / "metrics.csv"
    if log is not None and log.is_file():
        step = policy.provenance.step if policy is not None else 0
        curve = refinement_curve if (log.parent / "refine.png").is_file() else training_curve
        name = "report seeds" if evaluation.block == "report" else "this evaluation"
        curve(log, directory / "training.png", final=(name, step, evaluation.success))
        plots = {"Training, and success": directory / "training.png", **plots}
    write_report(
        directory / "report.html", title=title or f"{task.name}: {config.name}", evaluation=evaluation,
        video=video, plots=plots, stages=stages, commands=commands,
        config=policy.provenance.config if policy is not None else plain(config),
    )  # fmt: skip
    return Outcome(directory=directory, evaluation=evaluation, offline=offline)


def measure(config: EvaluateConfig, *, progress: bool = True) -> Measured:
    """The numbers alone, without files, video and report.

    Raises:
        ConfigError: there is no task.
    """
    policy = _load(config) if config.checkpoint is not None else None
    task = _task(config, policy, None)
    if task is None:
        raise ConfigError(f"{config.name} has no task: give task=...")
    actor, evaluation = _evaluate(config, policy, None, task, progress)
    if policy is None:
        return Measured(evaluation=evaluation)
    cost = _cost(policy, actor)
    covered = _coverage(config, policy, task).to_dict() if config.coverage else None
    return Measured(evaluation=evaluation, sampling=cost, coverage=covered)


def _cost(policy: Policy, actor: Actor) -> dict[str, float]:
    from robopolicy.evaluation.cost import calls_spent, sampling_cost

    assert isinstance(actor, PolicyActor)
    return sampling_cost(policy) | calls_spent(actor.calls)


def _coverage(config: EvaluateConfig, policy: Policy, task: Task) -> Coverage:
    starts = episode_seeds(config.block, STARTS, config.offset)
    return coverage(
        lambda repetition: PolicyActor(policy, repetition=repetition), task, starts,
        repetitions=config.coverage, workers=config.workers,
    )  # fmt: skip


def _evaluate(
    config: EvaluateConfig, policy: Policy | None, store: EpisodeStore | None, task: Task, progress: bool
) -> tuple[Actor, Evaluation]:
    actor, seeds = _actor(config, policy, store, task)
    used = [] if policy is None else list(policy.provenance.used_seeds)
    if store is not None and seeds is None:
        used += store.seeds.tolist()
    evaluation = evaluate(
        actor, task, episodes=config.episodes, block=config.block, offset=config.offset, lanes=config.lanes,
        workers=config.workers, used_seeds=used, seeds=seeds, progress=progress,
    )  # fmt: skip
    return actor, evaluation


def _load(config: EvaluateConfig) -> Policy:
    from robopolicy.device import choose_device
    from robopolicy.steering.steer import load_acting

    assert config.checkpoint is not None
    device = choose_device(config.device)
    return load_acting(config.checkpoint, sampler=config.sampler, steer=config.steer, device=device)


def _task(config: EvaluateConfig, policy: Policy | None, store: EpisodeStore | None) -> Task | None:
    task = _plain_task(config, policy, store)
    if task is None:
        return None
    perturb = task.perturb if config.perturb is None else (*task.perturb, config.perturb)
    return replace(task, perturb=perturb, goals=config.goals or task.goals)


def _plain_task(config: EvaluateConfig, policy: Policy | None, store: EpisodeStore | None) -> Task | None:
    if config.task is not None:
        return Task.from_dict(config.task)
    if policy is not None:
        return policy.provenance.task
    if store is not None and store.task is not None:
        return Task.from_dict(store.task)
    return None


def _actor(
    config: EvaluateConfig, policy: Policy | None, store: EpisodeStore | None, task: Task
) -> tuple[Actor, list[int] | None]:
    """The actor, and the episodes it is bound to, if any."""
    if policy is not None:
        return PolicyActor(policy), None
    if config.name == "expert":
        return ExpertActor(), None
    if config.name == "replay":
        if store is None:
            raise ConfigError("policy=replay needs data=path/to/store.zarr.")
        return replay_actor(store, config.episodes)
    return baseline_in(task, config.name), None


def _run_directory(checkpoint: str) -> Path | None:
    """None for the policy of a server."""
    from robopolicy.learning.checkpoint import find_checkpoint, is_address

    if is_address(checkpoint):
        return None
    found = find_checkpoint(checkpoint)
    return found.parent.parent if found.parent.name == "checkpoints" else found


def _default_directory(config: EvaluateConfig, task: Task | None, run: Path | None) -> Path:
    name = "evaluation" if config.perturb is None else f"evaluation_{config.perturb['name']}"
    if config.sampler is not None:
        name += f"_{config.sampler['name']}{config.sampler['steps']}"
    if config.steer is not None:
        name += f"_{config.steer['name']}"
    if run is not None:
        return run / name
    source = config.name.partition("://")[2].replace(":", "_").replace("/", "_") or config.name
    return Path("outputs", task.name if task is not None else "unknown", source, name)


def _offline(policy: Policy, store: EpisodeStore, directory: Path, progress: bool) -> dict[str, Any]:
    from robopolicy.evaluation.offline import format_error, held_out, offline_error, write_error

    episodes, what = held_out(policy, store)
    error = offline_error(policy, store, episodes, progress=progress) | {"episodes_are": what}
    write_error(error, directory / "offline_error.json")
    error_by_dimension(error, directory / "offline_error.png")
    print(format_error(error, what))
    return error


def _film(actor: Actor, evaluation: Evaluation, count: int, path: Path) -> Path | None:
    rows = evaluation.rows[:count]
    filmed = record_episodes(actor, evaluation.task, [row.seed for row in rows], path, lanes=evaluation.lanes)
    if filmed is None:
        return None
    for measured, seen in zip(rows, filmed, strict=True):
        if (measured.success, measured.steps) != (seen.success, seen.steps):
            warnings.warn(
                f"Episode {measured.seed} went differently when filmed: {seen.steps} steps, success "
                f"{seen.success}; measured: {measured.steps}, {measured.success}.",
                stacklevel=2,
            )
    return path
