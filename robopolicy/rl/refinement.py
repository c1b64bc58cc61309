"""Advancing a method to its cap: evaluations, logs and checkpoints on the way."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robopolicy.errors import CheckpointError
from robopolicy.learning import checkpoint as ckpt
from robopolicy.learning.interrupt import interrupt_held, saved_when_interrupted
from robopolicy.learning.log import MetricsLog
from robopolicy.learning.nan_guard import NotFiniteError, refuse_broken
from robopolicy.policies.policy import Policy
from robopolicy.progress import progress_bar
from robopolicy.registry import plain
from robopolicy.rl.checks import Checks
from robopolicy.rl.refiner import Refiner
from robopolicy.seeding import episode_seeds
from robopolicy.task import Task
from robopolicy.vector import LaneVectorEnv
from robopolicy.world.imagined import ImaginedVectorEnv

if TYPE_CHECKING:
    from robopolicy.evaluation.evaluate import Evaluation
    from robopolicy.rl.refine import RefineConfig

__all__ = ["COUNTS", "HOLDING", "MILESTONES", "PARTS", "TRUSTED", "Refinement"]

PARTS = ("env", "sampling", "update", "evaluation")
MILESTONES = (0.8, 0.9, 0.95)
HOLDING = "Finishing this iteration, then saving. Ctrl-C again stops at once, without saving."
COUNTS = ("practice_episodes", "imagined_doubted", "imagined_diverged")
TRUSTED = 2
"""Evaluations in a row that may find imagination too optimistic before a run stops."""


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
        self.best_return = -math.inf
        self.measured_at = -1
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.resumed = False
        self.distrusted = 0
        """Evaluations in a row in which imagination was too optimistic."""
        imagined = envs if isinstance(envs, ImaginedVectorEnv) else None
        self.imagined = imagined
        self._checks = Checks(config.evaluate, task, imagined)
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
        bar = progress_bar(
            total=config.steps, initial=self.env_steps, unit="step", unit_scale=True,
            disable=not self.progress, desc=f"{config.method['name']} {self.task.name}",
        )  # fmt: skip
        saved, since, since_step, means = time.monotonic(), time.monotonic(), self.env_steps, _Means()
        try:
            with saved_when_interrupted(self.save, lambda: f"environment step {self.env_steps}"):
                while True:
                    last = self.env_steps >= config.steps
                    if self.env_steps >= self.checks * config.evaluate.every or (
                        last and self.measured_at < self.env_steps
                    ):
                        log.add(self.env_steps, self._check())
                        refinement_curve(
                            self.directory / "metrics.csv",
                            self.directory / "refine.png",
                            base=not self.refiner.from_nothing,
                        )
                    last = last or (config.stop_at is not None and self.best >= config.stop_at)
                    last = last or self.distrusted >= TRUSTED
                    last = last or (config.patience is not None and self._since_best >= config.patience)
                    if last or time.monotonic() - saved > config.checkpoint_seconds:
                        self.save()
                        saved = time.monotonic()
                    if last:
                        break
                    before = self.env_steps
                    with interrupt_held(HOLDING):
                        row = {"warmup": float(self.refiner.warming), **self.refiner.advance()}
                        if self.imagined is not None:
                            row |= self.imagined.statistics()
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
        finally:
            bar.close()
            log.close()
            self.close()
        self._summarise(log.rows)
        return self._described(self.refiner.refined())

    def save(self) -> None:
        """Checkpoint now; the newest one is kept."""
        policy = self._described(self.refiner.refined())
        refuse_broken(policy, self.env_steps)
        state = {
            "seed": self.config.seed,
            "refiner": self.refiner.state(),
            "checks": self.checks,
            "measured_at": self.measured_at,
            "best": self.best,
            "best_step": self.best_step,
            "best_return": self.best_return,
            "seconds": self.seconds,
            "distrusted": self.distrusted,
        }
        target = self.directory / "checkpoints" / f"{ckpt.STEP_PREFIX}{self.env_steps:09d}"
        ckpt.save_checkpoint(target, policy, training=self.refiner.tensors(), state=state)
        for old in ckpt.steps(self.directory)[:-1]:
            ckpt.remove(old)

    def close(self) -> None:
        """Stop the environments."""
        self.envs.close()
        self._checks.close()

    def summary(self) -> str:
        """What was reached and what it cost, for people."""
        found = json.loads((self.directory / "refine.json").read_text())
        what = "return" if self._by_return else "success"
        base, best = (
            "from nothing" if (value := found[f"{which}_{what}"]) is None else self._shown(value)
            for which in ("base", "best")
        )
        split = ", ".join(f"{part} {minutes:.1f}" for part, minutes in found["minutes_per_million"].items())
        return (
            f"{self.directory}: {what} on selection seeds {base} -> {best} (best, at step "
            f"{found['best_step']:,} of {found['env_steps']:,}). Minutes a million steps: {split}."
        )

    def _described(self, policy: Policy) -> Policy:
        """With its history."""
        chosen = episode_seeds("select", self.config.evaluate.episodes)
        recorded = self.imagined.world.provenance.used_seeds if self.imagined is not None else ()
        used = dict.fromkeys((*self.base.used_seeds, *recorded, *chosen, *self.refiner.practice.used_seeds))
        policy.provenance = dataclasses.replace(
            self.base, task=self.task, used_seeds=tuple(used), step=self.env_steps, config=plain(self.config)
        )
        return policy

    def _check(self) -> dict[str, float]:
        started = time.perf_counter()
        policy = self._described(self.refiner.refined() if self.env_steps else self.refiner.initial())
        measured, row = self._checks(policy)
        self.distrusted = self.distrusted + 1 if self._checks.too_optimistic(row) else 0
        if self._better(measured):
            self.best, self.best_step = measured.success_rate, self.env_steps
            self.best_return = measured.mean_return
            ckpt.save_checkpoint(self.directory / "best", policy)
        self.checks = self.env_steps // self.config.evaluate.every + 1
        self.measured_at = self.env_steps
        spent = time.perf_counter() - started
        self.seconds["evaluation"] += spent
        return {**row, "seconds_evaluation": spent}

    def _better(self, measured: Evaluation) -> bool:
        """Than the best so far: in success, or in return where success is a return; newer ones win draws."""
        if self._by_return:
            return measured.mean_return >= self.best_return
        return measured.success_rate >= self.best

    @property
    def _since_best(self) -> int:
        """Environment steps from the best evaluation to the last one."""
        return max(self.measured_at, 0) - self.best_step

    @property
    def _by_return(self) -> bool:
        return "goal" in self.task.env

    def _shown(self, value: float) -> str:
        return f"{value:.0f}" if self._by_return else f"{value:.0%}"

    def _line(self, row: Mapping[str, float]) -> str:
        names = {
            "practice_return": "return",
            "practice_success": "success",
            "clip_fraction": "clip",
            "kl": "kl",
            "steps_per_s": "steps/s",
        }
        parts = [f"{short} {row[key]:.3g}" for key, short in names.items() if key in row]
        best = self.best_return if self._by_return else self.best
        return ", ".join([*parts, *([f"best {self._shown(best)}"] if self.checks else [])])

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
        first = next(row for row in rows if "success" in row)
        nothing = self.refiner.from_nothing
        found = {
            "env_steps": self.env_steps,
            "warmup_steps": max((row["step"] for row in rows if row.get("warmup", 0.0) > 0), default=0),
            "base_success": None if nothing else first["success"],
            "best_success": self.best,
            "base_return": None if nothing else first["return"],
            "best_return": self.best_return,
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
        self.best_return = float(state.get("best_return", -math.inf))
        self.seconds = dict(state["seconds"])
        self.distrusted = int(state.get("distrusted", 0))
        self.resumed = True


class _Means:
    """Rows of several iterations as one: seconds and counts are added up, the rest is averaged."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, row: Mapping[str, float]) -> None:
        for key, value in row.items():
            self._values.setdefault(key, []).append(value)

    def take(self) -> dict[str, float]:
        added = {key for key in self._values if key.startswith("seconds_") or key in COUNTS}
        row = {
            key: sum(values) / (1 if key in added else len(values)) for key, values in self._values.items()
        }
        self._values = {}
        return row
