"""From a trained policy to a refined one: what ``scripts/refine.py`` runs, whatever the method."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from robopolicy.errors import CheckpointError, ConfigError
from robopolicy.evaluation.evaluate import evaluate
from robopolicy.learning import checkpoint as ckpt
from robopolicy.learning.interrupt import interrupt_held
from robopolicy.learning.log import MetricsLog
from robopolicy.learning.nan_guard import NotFiniteError, refuse_broken
from robopolicy.learning.run import open_run
from robopolicy.learning.train import choose_device
from robopolicy.policies.policy import Policy
from robopolicy.registry import build, config_class, get, parse, plain
from robopolicy.rl.refiner import Refiner
from robopolicy.rollout import PolicyActor
from robopolicy.seeding import episode_seeds
from robopolicy.task import Task
from robopolicy.vector import LaneVectorEnv

MAY_CHANGE = (
    "device",
    "workers",
    "steps",
    "stop_at",
    "checkpoint_seconds",
    "threads",
    "wandb",
    "evaluate.workers",
    "force",
)
PRACTICE_SEEDS = 50_000
"""Practice seeds set apart for each run's seed; a longer run goes on with those of the next."""
PARTS = ("env", "sampling", "update", "evaluation")
MILESTONES = (0.8, 0.9, 0.95)
HOLDING = "Finishing this iteration, then saving. Ctrl-C again stops at once, without saving."


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Evaluations on selection seeds, at the start, every so often, and at the end."""

    every: int = 50_000
    """Environment steps between two."""
    episodes: int = 50
    lanes: int = 10
    workers: int = 2

    def __post_init__(self) -> None:
        if min(self.every, self.episodes, self.lanes) < 1 or self.workers < 0:
            raise ConfigError("refine: evaluate needs every, episodes, lanes >= 1 and workers >= 0.")


@dataclass(frozen=True, kw_only=True)
class RefineConfig:
    """The root of ``configs/refine.yaml``."""

    checkpoint: str
    """The base policy."""
    method: Mapping[str, Any]
    task: Mapping[str, Any] | None = None
    """Instead of the checkpoint's own."""
    steps: int = 2_000_000
    """Environment steps at most, warm-up included; a run may be resumed with more."""
    stop_at: float | None = None
    """Stop at the first evaluation with this success rate."""
    lanes: int = 16
    workers: int = 2
    evaluate: CheckConfig = field(default_factory=CheckConfig)
    seed: int = 0
    name: str = "default"
    out: str | None = None
    device: str = "auto"
    threads: int = 0
    """Torch threads; 0 keeps OMP_NUM_THREADS."""
    log_every: int = 5_000
    """Environment steps between rows of the log, at least."""
    checkpoint_seconds: float = 600.0
    wandb: bool = False
    force: bool = False
    """Go on where a method advises against it."""

    def __post_init__(self) -> None:
        if min(self.steps, self.lanes, self.log_every) < 1 or self.workers < 0:
            raise ConfigError("refine needs steps, lanes, log_every >= 1 and workers >= 0.")
        if self.stop_at is not None and not 0 < self.stop_at <= 1:
            raise ConfigError(f"refine: stop_at is a success rate in (0, 1], got {self.stop_at}.")

    def directory(self, task: Task) -> Path:
        """The run's directory."""
        return Path(self.out or f"outputs/{task.name}/{self.method['name']}/{self.name}/seed{self.seed}")


def prepare(config: RefineConfig, *, progress: bool = True) -> Refinement:
    """A refinement, new or where the run in its directory stopped."""
    if config.threads:
        torch.set_num_threads(config.threads)
    base = ckpt.load(config.checkpoint, device=choose_device(config.device))
    task = Task.from_dict(config.task) if config.task else base.provenance.task
    if task is None:
        raise ConfigError(f"{config.checkpoint} was trained without a task: give task=...")
    method = dict(config.method)
    cls = config_class(get("method", method["name"]))
    if config.force and "force" in {f.name for f in dataclasses.fields(cls)}:
        method["force"] = True
    settings: Any = parse(cls, {k: v for k, v in method.items() if k != "name"}, f"method={method['name']}")
    torch.manual_seed(config.seed)
    envs = LaneVectorEnv(
        task,
        config.lanes,
        workers=config.workers,
        chunk=base.action_horizon,
        success_hold=settings.convention.success_hold,
    )
    try:
        refiner = build(
            "method", method, policy=base, envs=envs, seed=config.seed, offset=config.seed * PRACTICE_SEEDS
        )
        # Only now: settings that cannot work leave no directory behind that refuses those that can.
        identity = {"base": _identity(base), "task": task.to_dict()}
        open_run(config.directory(task), {**plain(config), **identity}, ignore=MAY_CHANGE)
        return Refinement(config, refiner, task, envs, progress=progress)
    except BaseException:
        envs.close()
        raise


class Refinement:
    """Advances a method to the cap; evaluates, logs and checkpoints on the way."""

    def __init__(
        self,
        config: RefineConfig,
        refiner: Refiner,
        task: Task,
        envs: LaneVectorEnv,
        *,
        progress: bool = True,
    ) -> None:
        self.config, self.refiner, self.task, self.envs = config, refiner, task, envs
        self.directory, self.progress = config.directory(task), progress
        self.base = refiner.policy.provenance
        self.checks = 0
        """Evaluations done on this run so far."""
        self.best, self.best_step = -1.0, 0
        self.measured_at = -1
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.resumed = False
        self._check_envs: LaneVectorEnv | None = None
        if found := ckpt.steps(self.directory):
            self._restore(found[-1])

    @property
    def env_steps(self) -> int:
        """Environment steps so far."""
        return self.refiner.env_steps

    def run(self) -> Policy:
        """Refine up to the cap and return the policy as it is then.

        Raises:
            NotFiniteError: a reward, a logged number or a weight; names it. The last checkpoint stays.
        """
        from robopolicy.evaluation.plots import refinement_curve

        config = self.config
        log = MetricsLog(
            self.directory,
            resume_step=self.env_steps if self.resumed else -1,
            wandb=config.wandb,
            config=plain(config),
        )
        bar = tqdm(
            total=config.steps, initial=self.env_steps, unit="step", unit_scale=True,
            disable=not self.progress, desc=f"{config.method['name']} {self.task.name}",
        )  # fmt: skip
        saved, since, since_step, means = time.monotonic(), time.monotonic(), self.env_steps, _Means()
        try:
            while True:
                last = self.env_steps >= config.steps
                if self.env_steps >= self.checks * config.evaluate.every or (
                    last and self.measured_at < self.env_steps
                ):
                    log.add(self.env_steps, self._check())
                    refinement_curve(self.directory / "metrics.csv", self.directory / "refine.png")
                last = last or (config.stop_at is not None and self.best >= config.stop_at)
                if last or time.monotonic() - saved > config.checkpoint_seconds:
                    self.save()
                    saved = time.monotonic()
                if last:
                    break
                before = self.env_steps
                with interrupt_held(HOLDING):
                    row = {"warmup": float(self.refiner.warming), **self.refiner.advance()}
                    self._refuse_broken(row)
                for part in PARTS:
                    self.seconds[part] += row.get(f"seconds_{part}", 0.0)
                means.add(row)
                bar.update(self.env_steps - before)
                if self.env_steps - since_step >= config.log_every or self.env_steps >= config.steps:
                    now = time.monotonic()
                    shown = means.take()
                    shown["steps_per_s"] = (self.env_steps - since_step) / (now - since)
                    log.add(self.env_steps, shown)
                    bar.set_postfix_str(self._line(shown), refresh=False)
                    since, since_step = now, self.env_steps
        except KeyboardInterrupt:
            self.save()
            tqdm.write(
                f"Interrupted at environment step {self.env_steps}: checkpoint saved. "
                "The same command resumes."
            )
            raise
        finally:
            bar.close()
            log.close()
            self.close()
        self._summarise(log.rows)
        return self._policy()

    def save(self) -> None:
        """Checkpoint now; the newest one is kept."""
        policy = self._policy()
        refuse_broken(policy, self.env_steps)
        state = {
            "seed": self.config.seed,
            "refiner": self.refiner.state(),
            "checks": self.checks,
            "measured_at": self.measured_at,
            "best": self.best,
            "best_step": self.best_step,
            "seconds": self.seconds,
        }
        target = self.directory / "checkpoints" / f"{ckpt.STEP_PREFIX}{self.env_steps:09d}"
        ckpt.save_checkpoint(target, policy, training=self.refiner.tensors(), state=state)
        for old in ckpt.steps(self.directory)[:-1]:
            ckpt.remove(old)

    def close(self) -> None:
        """Stop the environments."""
        self.envs.close()
        if self._check_envs is not None:
            self._check_envs.close()

    def summary(self) -> str:
        """What was reached and what it cost, for people."""
        found = json.loads((self.directory / "refine.json").read_text())
        base, best = found["base_success"], found["best_success"]
        split = ", ".join(f"{part} {minutes:.1f}" for part, minutes in found["minutes_per_million"].items())
        return (
            f"{self.directory}: success on selection seeds {base:.0%} -> {best:.0%} (best, at step "
            f"{found['best_step']:,} of {found['env_steps']:,}). Minutes a million steps: {split}."
        )

    def _policy(self) -> Policy:
        policy = self.refiner.refined()
        chosen = episode_seeds("select", self.config.evaluate.episodes)
        used = dict.fromkeys((*self.base.used_seeds, *chosen, *self.refiner.practice.used_seeds))
        policy.provenance = dataclasses.replace(
            self.base, task=self.task, used_seeds=tuple(used), step=self.env_steps, config=plain(self.config)
        )
        return policy

    def _check(self) -> dict[str, float]:
        started = time.perf_counter()
        settings = self.config.evaluate
        policy = self._policy()
        if self._check_envs is None:
            lanes = min(settings.lanes, settings.episodes)
            self._check_envs = LaneVectorEnv(
                self.task, lanes, workers=settings.workers, chunk=policy.action_horizon
            )
        measured = evaluate(
            PolicyActor(policy), self.task, episodes=settings.episodes, block="select", envs=self._check_envs,
            progress=False,
        )  # fmt: skip
        if measured.success_rate >= self.best:  # the newest of equally good ones
            self.best, self.best_step = measured.success_rate, self.env_steps
            ckpt.save_checkpoint(self.directory / "best", policy)
        self.checks = self.env_steps // settings.every + 1
        self.measured_at = self.env_steps
        spent = time.perf_counter() - started
        self.seconds["evaluation"] += spent
        return {
            **measured.metrics(),
            "success_final": measured.success_final.value,
            "seconds_evaluation": spent,
        }

    def _line(self, row: Mapping[str, float]) -> str:
        names = {
            "practice_return": "return",
            "practice_success": "success",
            "clip_fraction": "clip",
            "kl": "kl",
            "steps_per_s": "steps/s",
        }
        parts = [f"{short} {row[key]:.3g}" for key, short in names.items() if key in row]
        return ", ".join([*parts, *([f"best {self.best:.0%}"] if self.checks else [])])

    def _refuse_broken(self, row: Mapping[str, float]) -> None:
        bad = [key for key, value in row.items() if not math.isfinite(value)]
        if bad:
            raise NotFiniteError(
                f"Not finite after environment step {self.env_steps}: {', '.join(bad)}. "
                "The last checkpoint is untouched."
            )

    def _summarise(self, rows: list[dict[str, Any]]) -> None:
        curve = [(row["step"], row["success"]) for row in rows if "success" in row]
        millions = max(self.env_steps, 1) / 1e6
        found = {
            "env_steps": self.env_steps,
            "base_success": curve[0][1],
            "best_success": self.best,
            "best_step": self.best_step,
            "final_success": curve[-1][1],
            "steps_to": {
                f"{goal:.0%}": next((step for step, rate in curve if rate >= goal), None)
                for goal in MILESTONES
            },
            "minutes_per_million": {part: value / 60 / millions for part, value in self.seconds.items()},
            "lost_episodes": self.refiner.practice.lost_episodes,
        }
        (self.directory / "refine.json").write_text(json.dumps(found, indent=1) + "\n")

    def _restore(self, directory: Path) -> None:
        state = ckpt.read_json(directory / "training.json")
        if state["seed"] != self.config.seed:
            raise CheckpointError(
                f"{directory} was refined with seed {state['seed']}, not {self.config.seed}."
            )
        self.refiner.load_tensors(ckpt.read_tensors(directory / "training.safetensors"))
        self.refiner.restore(state["refiner"])
        self.checks, self.measured_at = int(state["checks"]), int(state["measured_at"])
        self.best, self.best_step = float(state["best"]), int(state["best_step"])
        self.seconds = dict(state["seconds"])
        self.resumed = True


class _Means:
    """Rows of several iterations as one: seconds and counts are added up, the rest is averaged."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, row: Mapping[str, float]) -> None:
        for key, value in row.items():
            self._values.setdefault(key, []).append(value)

    def take(self) -> dict[str, float]:
        added = {key for key in self._values if key.startswith("seconds_") or key == "practice_episodes"}
        row = {
            key: sum(values) / (1 if key in added else len(values)) for key, values in self._values.items()
        }
        self._values = {}
        return row


def _identity(policy: Policy) -> str:
    """Of a policy's weights: a run goes on only with the base it began with."""
    digest = hashlib.sha256()
    for name, value in sorted(policy.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
