"""Running a plan: every cell is collected for, trained, evaluated on report seeds and written to its file."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from robopolicy.compose import compose
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError, DataError
from robopolicy.evaluation.collect import collect
from robopolicy.evaluation.evaluate import Measured
from robopolicy.evaluation.plots import read_series
from robopolicy.evaluation.results import Cell, Plan, read_plan, write_result
from robopolicy.evaluation.run import EvaluateConfig, measure
from robopolicy.registry import parse, plain
from robopolicy.task import Task

if TYPE_CHECKING:
    from robopolicy.learning.train import TrainConfig

__all__ = ["RunPlanConfig", "bases_of", "run_plan", "training_of"]


@dataclass(frozen=True, kw_only=True)
class RunPlanConfig:
    """The root of ``configs/run_plan.yaml``."""

    plan: str
    results: str
    only: str = ""
    episodes: int = 100
    hours: float = 12.0
    lanes: int = 10
    workers: int = 0
    device: str = "auto"


def run_plan(config: RunPlanConfig) -> tuple[int, int]:
    """Run the missing cells in order; returns how many were run and how many are left."""
    started, done = time.monotonic(), 0
    plan = read_plan(config.plan)
    cells = [cell for cell in plan.cells() if config.only in str(cell.file)]
    stores: dict[tuple[str, ...], int] = {}
    for cell in plan.cells():
        stores[_store(cell)] = max(stores.get(_store(cell), 0), cell.demonstrations)
    for cell in cells:
        target = Path(config.results) / cell.file
        if target.exists() or time.monotonic() - started > config.hours * 3600:
            continue
        with _claim(target.with_suffix(".claim")) as mine:
            if not mine or target.exists():
                continue
            print(f"{cell.file} ({' '.join(cell.settings)})", flush=True)
            for base in bases_of(cell, plan).values():
                _train(base, stores[_store(base)], config)
            _run(cell, stores[_store(cell)], target, config)
            done += 1
    return done, sum(not (Path(config.results) / cell.file).exists() for cell in cells)


def _store(cell: Cell) -> tuple[str, ...]:
    """What cells that are trained from one store have in common."""
    return cell.task, *(word for word in cell.settings if word.startswith("data="))


def _directory(cell: Cell) -> str:
    """Where the cell's policy is trained, as other rows name it."""
    return f"outputs/{cell.task}/{cell.policy}/{_name(cell)}/seed{cell.seed}"


def _name(cell: Cell) -> str:
    """The run's name: its settings and the number of demonstrations."""
    return f"{cell.trained or cell.variant}n{cell.demonstrations}"


def _named(cell: Cell) -> list[str]:
    """Runs that a cell's words name: FDP's base, policies that are added."""
    words = " ".join((*cell.settings, *cell.evaluation_settings)).replace("${task.name}", cell.task)
    return re.findall(r"outputs/[\w./-]+", _filled(words, cell))


def _run(cell: Cell, demonstrations: int, target: Path, config: RunPlanConfig) -> None:
    if cell.method:
        _refine(cell, target, config)
        return
    settings, trained = _train(cell, demonstrations, config)
    if cell.keep:
        _keep(settings.directory, Path(config.results) / cell.kept)
    measured = _measure(settings.directory, cell, config)
    seconds = {} if trained is None else {"train": trained}
    write_result(target, cell, measured, config=plain(settings), wall_seconds=seconds)


def _measure(checkpoint: Path, cell: Cell, config: RunPlanConfig) -> Measured:
    words = [
        f"checkpoint={checkpoint}",
        f"device={config.device}",
        f"episodes={config.episodes}",
        f"lanes={config.lanes}",
        f"workers={config.workers}",
        *(_filled(word, cell) for word in cell.evaluation_settings),
    ]
    measured = measure(parse(EvaluateConfig, compose("evaluate", words), "evaluate"))
    print(measured.evaluation.summary(), flush=True)
    return measured


def _filled(word: str, cell: Cell) -> str:
    """A word with the cell's seed and demonstrations in it, as training's configuration does by itself."""
    found = word.replace("${seed}", str(cell.seed))
    return found.replace("${demonstrations}", str(cell.demonstrations))


def _refine(cell: Cell, target: Path, config: RunPlanConfig) -> None:
    """Refine the base that an earlier row has kept; what is reported is the best on selection seeds."""
    from robopolicy.rl.refine import RefineConfig, prepare

    base = Path(config.results) / cell.base.kept
    if not base.is_dir():
        raise ConfigError(
            f"{cell.file} refines {base}, which is not there: run the row that keeps it (keep: true)."
        )
    words = [
        f"checkpoint={base}",
        f"method={cell.method}",
        *cell.settings,
        f"seed={cell.seed}",
        f"name={cell.label}-n{cell.demonstrations}-{cell.method_label}",
        f"device={config.device}",
    ]
    refinement = prepare(parse(RefineConfig, compose("refine", words), "refine"))
    refinement.run()
    run = refinement.directory
    series = read_series(run / "metrics.csv")
    curve = {"steps": series["success"][0], "success": series["success"][1], "return": series["return"][1]}
    summary = json.loads((run / "refine.json").read_text())
    write_result(
        target, cell, _measure(run / "best", cell, config), config=plain(refinement.config),
        wall_seconds=refinement.seconds, refinement={**summary, "curve": curve},
    )  # fmt: skip


def _keep(run: Path, target: Path) -> None:
    from robopolicy.learning.checkpoint import find_checkpoint

    source = find_checkpoint(run)
    target.mkdir(parents=True, exist_ok=True)
    for name in ("policy.json", "policy.safetensors"):
        shutil.copy2(source / name, target / name)


def _train(cell: Cell, demonstrations: int, config: RunPlanConfig) -> tuple[TrainConfig, float | None]:
    """Train unless another evaluation of the same policy has; wall seconds where it was done in one go."""
    from robopolicy.learning.train import prepare

    settings = training_of(cell, config.device)
    task = parse(Task, settings.task or {}, "task")
    store, seconds = Path(settings.store_path), settings.directory / "train_seconds.json"
    with _claim(store.with_suffix(".claim"), wait=True):
        if not _recorded(store, demonstrations):
            collect(task, store, episodes=demonstrations, lanes=config.lanes, workers=config.workers)
    with _claim(settings.directory.with_suffix(".claim"), wait=True):
        start = time.monotonic()
        trainer = prepare(settings)
        if whole := trainer.step == 0:
            trainer.train()
            seconds.write_text(json.dumps(time.monotonic() - start))
        elif trainer.step < settings.trainer.steps:
            trainer.train()
    known = whole or seconds.is_file()
    return settings, json.loads(seconds.read_text()) if known else None


def training_of(cell: Cell, device: str, *words: str) -> TrainConfig:
    """What a cell's policy is trained by, with further settings."""
    from robopolicy.learning.train import TrainConfig

    composed = compose(
        "train",
        [
            f"task={cell.task}",
            f"policy={cell.policy}",
            *cell.settings,
            f"seed={cell.seed}",
            f"name={_name(cell)}",
            f"demonstrations={cell.demonstrations}",
            "validation=0",
            f"device={device}",
            *words,
        ],
    )
    return parse(TrainConfig, composed, "train")


def bases_of(cell: Cell, plan: Plan) -> dict[str, Cell]:
    """The cells whose runs a cell's words name (FDP's base, policies that are added), by directory."""
    runs = {_directory(other): other for other in plan.cells() if not other.method and not other.trained}
    return {path: runs[path] for path in _named(cell) if path in runs}


def _recorded(store: Path, demonstrations: int) -> bool:
    """Whether there is nothing to collect: a policy recorded them, or they are of several tasks, merged.

    Raises:
        DataError: fewer than are wanted.
    """
    if not store.exists():
        return False
    found = EpisodeStore.open(store)
    origin = found.origin.get("checkpoint") or ("several tasks" if found.task is None else None)
    if origin is None:
        return False
    if len(found) < demonstrations:
        raise DataError(f"{store} has {len(found)} episodes of {origin}; the plan wants {demonstrations}.")
    return True


@contextlib.contextmanager
def _claim(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Whether this process has the claim; a claim left by a process that died is taken over."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while not (mine := _take(path)) and wait:
        time.sleep(1.0)
    try:
        yield mine
    finally:
        if mine:
            path.unlink(missing_ok=True)


def _take(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError, ValueError):
        owner = int(path.read_text())
        try:
            os.kill(owner, 0)
            return False
        except ProcessLookupError:
            path.unlink(missing_ok=True)
        except PermissionError:
            return False
    try:
        with path.open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return False
    return True
