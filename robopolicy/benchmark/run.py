"""Measure what was asked for, keep it in a file, and write the page from the file."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from robopolicy.benchmark import learning, refinement, simulation
from robopolicy.benchmark.beside_robosuite import against_robosuite
from robopolicy.benchmark.equality import check_equality
from robopolicy.benchmark.page import write_page
from robopolicy.compose import compose
from robopolicy.data.store import EpisodeStore
from robopolicy.device import choose_device
from robopolicy.env import make_env
from robopolicy.errors import ConfigError, DataError, unknown
from robopolicy.evaluation.machine import stamp
from robopolicy.evaluation.results import CHECKS
from robopolicy.learning.checkpoint import load
from robopolicy.registry import plain
from robopolicy.task import Task

__all__ = ["FORMAT", "PARTS", "BenchmarkConfig", "run_benchmark"]

PARTS = (
    "training",
    "sampling",
    "families",
    "environments",
    "robosuite",
    "windows",
    "evaluation",
    "refinement",
    "serving",
)
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """The root of ``configs/benchmark.yaml``."""

    what: str = "all"
    networks: tuple[str, ...] = ("mlp", "unet_small")
    policies: tuple[str, ...] = (
        "gaussian",
        "gmm",
        "diffusion",
        "beso",
        "energy_denoising",
        "energy_published",
    )
    """Whose sampling is compared, in their default configurations."""
    tasks: tuple[str, ...] = ("lift", "can", "square", "reach")
    beside: tuple[str, ...] = ("lift", "can", "square", "door", "stack", "two_arm_lift")
    """robosuite's tasks, whose steps are timed beside its own."""
    pairs: int = 20
    """Episodes that both then take."""
    data: str | None = None
    """Store to train on; random data of Lift's sizes by default."""
    checkpoint: str | None = None
    """Policy to evaluate; an untrained one of the first network by default."""
    episodes: int = 100
    states: int = 10_000
    """From which ``what=equality`` compares a step with robosuite's."""
    workers: tuple[int, ...] = (1, 2)
    seconds: float = 1.0
    """Spent on each number."""
    rounds: int = 5
    threads: int = 1
    device: str = "cpu"
    out: str = "results/benchmark"
    page: str = "docs/benchmark.md"

    def __post_init__(self) -> None:
        if self.what not in ("all", *PARTS, "equality"):
            raise ConfigError(unknown("part of the benchmark", self.what, ("all", *PARTS, "equality")))
        counts = (self.episodes, self.pairs, self.rounds, self.threads, *self.workers)
        if min(counts) < 1 or self.seconds <= 0:
            raise ConfigError(
                "benchmark needs episodes, pairs, rounds, threads, workers >= 1 and seconds > 0."
            )
        if not (self.networks and self.policies and self.tasks and self.workers):
            raise ConfigError("benchmark needs at least one of each: networks, policies, tasks, workers.")


def run_benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Measure, and bring ``<out>/<device>.json`` and the page up to date; other parts in the file stay.

    Equality with robosuite is not speed: it goes to ``<out>/../checks``, a file for each task.

    Returns:
        The parts measured now; with ``what=equality``, what was found by task.
    """
    if config.what == "equality":
        checks = Path(config.out).parent / CHECKS
        return {
            task.name: check_equality(
                task,
                states=config.states,
                free=config.rounds,
                pairs=config.episodes,
                path=checks / f"robosuite_{task.name}.json",
            )
            for task in _tasks(config.tasks)
            if task.env["name"] == "robosuite"
        }
    device = choose_device(config.device)
    torch.set_num_threads(config.threads)
    path = Path(config.out) / f"{device.type}.json"
    parts = PARTS if config.what == "all" else (config.what,)
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="robopolicy-") as directory:
        bench = _Bench(config, Path(directory))
        for part in parts:
            tqdm.write(f"{part} ...")
            load_before, started = os.getloadavg(), time.perf_counter()
            rows = bench.parts[part]()
            measured[part] = {
                "rows": rows,
                "wall_seconds": round(time.perf_counter() - started, 2),
                "load_average": load_before,
                "config": plain(config),
                **stamp(),
            }
            tqdm.write(f"{part}: {measured[part]['wall_seconds']:.0f} s")
            _save(path, {**_read(path), part: measured[part]})
    write_page([_read(path)], Path(config.page))
    return measured


class _Bench:
    """The parts by name; what they share is made once."""

    def __init__(self, config: BenchmarkConfig, directory: Path) -> None:
        self.config, self.directory = config, directory
        self.data = Path(config.data or directory / "random.zarr")
        self.parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
            "training": self.training,
            "sampling": self.sampling,
            "families": self.families,
            "environments": self.environments,
            "robosuite": self.robosuite,
            "windows": self.windows,
            "evaluation": self.evaluation,
            "refinement": self.refinement,
            "serving": self.serving,
        }

    def store(self) -> EpisodeStore:
        if self.config.data is None and not self.data.exists():
            return learning.random_store(self.data, learning.lift_sizes())
        return EpisodeStore.open(self.data)

    def training(self) -> list[dict[str, Any]]:
        self.store()
        return learning.training(self.config.networks, self.data, self.directory, **self._timing)

    def sampling(self) -> list[dict[str, Any]]:
        self.store()
        return learning.sampling(self.config.networks, self.data, self.directory, **self._timing)

    def families(self) -> list[dict[str, Any]]:
        self.store()
        return learning.families(self.config.policies, self.data, self.directory / "families", **self._timing)

    def windows(self) -> list[dict[str, Any]]:
        return learning.windows(self.store(), self.directory, **self._timing)

    def environments(self) -> list[dict[str, Any]]:
        budget: dict[str, Any] = {"seconds": self.config.seconds, "rounds": self.config.rounds}
        return simulation.environments(_tasks(self.config.tasks), workers=self.config.workers, **budget)

    def robosuite(self) -> list[dict[str, Any]]:
        return [against_robosuite(task, episodes=self.config.pairs) for task in _tasks(self.config.beside)]

    def evaluation(self) -> list[dict[str, Any]]:
        config = self.config
        if config.checkpoint is not None:
            policy = load(config.checkpoint, device=choose_device(config.device))
            task = policy.provenance.task
            if task is None:
                raise DataError(f"{config.checkpoint} was trained without a task to evaluate it on.")
        else:
            (task,) = _tasks(config.tasks[:1])
            env = make_env(task)
            env.close()
            data = self.directory / "task.zarr"
            learning.random_store(data, env.robot_spec)
            policy = learning.trainer(
                config.networks[0], "float32", data, self.directory / "evaluation", config.device
            ).average
        found = simulation.evaluation(policy, task, episodes=config.episodes, workers=max(config.workers))
        return [{"policy": config.checkpoint or f"untrained {config.networks[0]}", **found}]

    def refinement(self) -> list[dict[str, Any]]:
        return refinement.refinement(**self._timing)

    def serving(self) -> list[dict[str, Any]]:
        from robopolicy.benchmark.serving import serving  # its packages are an extra

        self.store()
        return serving(self.data, self.directory / "serving", **self._timing)

    @property
    def _timing(self) -> dict[str, Any]:
        config = self.config
        return {"device": config.device, "seconds": config.seconds, "rounds": config.rounds}


def _tasks(names: Sequence[str]) -> list[Task]:
    return [Task.from_dict(compose("evaluate", [f"task={name}"])["task"]) for name in names]


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {"format": FORMAT}
    found: dict[str, Any] = json.loads(path.read_text())
    if found["format"] != FORMAT:
        raise DataError(f"{path} has format {found['format']}, this version writes {FORMAT}; move it away.")
    return found


def _save(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(partial, path)
