"""Success of an actor on a task: one table row an episode, a rate with its interval, and what it cost."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from robopolicy.errors import ConfigError, DataError
from robopolicy.evaluation.statistics import Interval, wilson
from robopolicy.progress import progress_bar
from robopolicy.rollout import Actor, Episode, run_episodes
from robopolicy.seeding import block_of, episode_seeds, refuse_overlap
from robopolicy.task import Task
from robopolicy.vector import LaneVectorEnv

__all__ = ["EpisodeRow", "Evaluation", "Measured", "evaluate"]


@dataclass(frozen=True)
class EpisodeRow:
    """One episode's line in the table."""

    index: int
    seed: int
    success: bool
    """At any step."""
    success_final: bool
    """Still at the last step."""
    steps: int
    first_success: int
    """Step of the first success, counted from 1; -1 if there was none."""
    total_reward: float

    @classmethod
    def of(cls, episode: Episode) -> EpisodeRow:
        """The row of a finished episode."""
        return cls(**{field.name: getattr(episode, field.name) for field in fields(cls)})


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured. Rows are in the order of their seeds, whatever order they finished in."""

    task: Task
    block: str
    rows: tuple[EpisodeRow, ...]
    lanes: int
    workers: int
    wall_seconds: float
    """Of the episodes."""
    startup_seconds: float = 0.0
    """Of making the environments, before."""

    @property
    def success(self) -> Interval:
        """Rate of success at any step, with its Wilson interval."""
        return wilson(sum(row.success for row in self.rows), len(self.rows))

    @property
    def success_final(self) -> Interval:
        """Rate of success at the last step, with its Wilson interval."""
        return wilson(sum(row.success_final for row in self.rows), len(self.rows))

    @property
    def success_rate(self) -> float:
        """Share of episodes with success at any step."""
        return self.success.value

    @property
    def mean_return(self) -> float:
        """Mean of the environment's rewards added up over an episode."""
        return sum(row.total_reward for row in self.rows) / len(self.rows)

    def metrics(self) -> dict[str, float]:
        """Numbers for a training log; `plots.training_curve` draws them."""
        interval = self.success
        return {
            "success": interval.value,
            "success_low": interval.low,
            "success_high": interval.high,
            "return": self.mean_return,
        }

    @property
    def seconds_per_episode(self) -> float:
        """Wall seconds divided by episodes."""
        return self.wall_seconds / len(self.rows)

    @property
    def steps_per_second(self) -> float:
        """Environment steps a second, policy included."""
        return sum(row.steps for row in self.rows) / self.wall_seconds

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the summary, then the table under "episodes"."""
        return {
            "task": self.task.to_dict(),
            "block": self.block,
            "success": asdict(self.success),
            "success_final": asdict(self.success_final),
            "wall_seconds": self.wall_seconds,
            "startup_seconds": self.startup_seconds,
            "seconds_per_episode": self.seconds_per_episode,
            "steps_per_second": self.steps_per_second,
            "lanes": self.lanes,
            "workers": self.workers,
            "episodes": [asdict(row) for row in self.rows],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Evaluation:
        """Read what `to_dict` wrote."""
        return cls(
            task=Task.from_dict(values["task"]),
            rows=tuple(EpisodeRow(**row) for row in values["episodes"]),
            **{key: values[key] for key in ("block", "lanes", "workers", "wall_seconds", "startup_seconds")},
        )

    def save(self, directory: str | Path) -> None:
        """Write ``episodes.csv`` and ``evaluation.json``."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "episodes.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(EpisodeRow)])
            writer.writeheader()
            writer.writerows(asdict(row) for row in self.rows)
        (directory / "evaluation.json").write_text(json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, directory: str | Path) -> Evaluation:
        """Read what `save` wrote.

        Raises:
            DataError: there is no evaluation.
        """
        path = Path(directory) / "evaluation.json"
        if not path.is_file():
            raise DataError(f"{path} does not exist; evaluate first.")
        return cls.from_dict(json.loads(path.read_text()))

    def summary(self) -> str:
        """One paragraph for people."""
        count = sum(row.success for row in self.rows)
        lengths = sorted(row.first_success for row in self.rows if row.success)
        typical = f" Median step of success {lengths[len(lengths) // 2]}." if lengths else ""
        return (
            f"{self.task.name}: {count} of {len(self.rows)} episodes succeed, {self.success} "
            f"(95% Wilson); still successful at the end {self.success_final}.{typical} Mean return "
            f"{self.mean_return:.4g}. "
            f"Seeds {self.rows[0].seed}..{self.rows[-1].seed} ({self.block}). "
            f"{self.wall_seconds:.1f} s after {self.startup_seconds:.1f} s of starting, "
            f"{self.seconds_per_episode:.2f} s an episode, "
            f"{self.steps_per_second:.0f} steps/s with {self.lanes} lanes and {self.workers} workers."
        )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What `measure` returns."""

    evaluation: Evaluation
    sampling: Mapping[str, float] | None = None
    """What a chunk costs (`sampling_cost`), of a policy."""
    coverage: Mapping[str, Any] | None = None
    """Routes taken (`Coverage.to_dict`), where they were asked for."""


def evaluate(
    actor: Actor,
    task: Task,
    *,
    episodes: int = 100,
    block: str = "report",
    lanes: int = 10,
    workers: int = 2,
    used_seeds: Iterable[int] = (),
    progress: bool = True,
    envs: LaneVectorEnv | None = None,
    offset: int = 0,
    seeds: Sequence[int] | None = None,
    watch: Callable[[Episode], None] | None = None,
) -> Evaluation:
    """Run `episodes` episodes of a seed block, from its `offset`-th on.

    The table depends on `lanes` (the policy's batch) at most in rounding, and on `workers` not at all.

    Args:
        used_seeds: seeds the actor was trained or chosen on; none of them may be reported.
        envs: lanes to use and leave open; otherwise they are made and closed here, at most one an episode.
        seeds: these episodes instead of those of a block.
        watch: called with every finished episode and its arrays.

    Raises:
        ConfigError: no episodes, or an unknown seed block.
        DataError: a report seed was used before.
        SpecMismatch: the environment is not what the actor was made for.
    """
    if seeds is None:
        seeds = episode_seeds(block, episodes, offset)
    if not seeds:
        raise ConfigError("Evaluation needs at least 1 episode.")
    block, episodes = block_of(seeds[0]), len(seeds)
    if block == "report":
        refuse_overlap(seeds, used_seeds, "training or choosing this policy")
    own, created = envs is None, time.perf_counter()
    if envs is None:
        lanes = min(lanes, episodes)
        envs = LaneVectorEnv(task, lanes, workers=workers, chunk=actor.action_horizon)
    rows: list[EpisodeRow] = []
    started = time.perf_counter()
    try:
        with progress_bar(
            total=episodes, desc=f"evaluate {task.name}", unit="ep", disable=not progress
        ) as bar:
            for episode in run_episodes(envs, actor, seeds, record=watch is not None):
                rows.append(EpisodeRow.of(episode))
                if watch is not None:
                    watch(episode)
                bar.set_postfix_str(f"success {sum(row.success for row in rows)}/{len(rows)}", refresh=False)
                bar.update()
    finally:
        if own:
            envs.close()
    return Evaluation(
        task=task,
        block=block,
        rows=tuple(sorted(rows, key=lambda row: row.index)),
        lanes=envs.num_envs,
        workers=envs.workers,
        wall_seconds=time.perf_counter() - started,
        startup_seconds=started - created,
    )
