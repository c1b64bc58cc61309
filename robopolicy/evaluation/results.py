"""Result files and the plan they fill: one JSON for each trained and evaluated policy.

results/plan.yaml                                   which cells are wanted, most important first
results/<task>/<policy>/n<demonstrations>/[<method>/][<evaluation>/]seed<k>.json
results/bases/<task>/<policy>/n<demonstrations>/seed<k>/     policies that are refined
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from robopolicy.errors import ConfigError, DataError, unknown
from robopolicy.evaluation.evaluate import Measured
from robopolicy.evaluation.machine import stamp
from robopolicy.registry import parse, plain

__all__ = [
    "BASES",
    "BENCHMARK",
    "CHECKS",
    "FORMAT",
    "PIPELINES",
    "TUNING",
    "Cell",
    "Plan",
    "Row",
    "Section",
    "read_plan",
    "read_results",
    "successes",
    "write_result",
]

FORMAT = 1
BASES, BENCHMARK, CHECKS, PIPELINES, TUNING = "bases", "benchmark", "checks", "pipeline", "tuning"
"""Directories beside the result files: policies that are refined, speed, equality and safety, one checkpoint
through everything, and what settings were chosen by (its own plan and result files, on selection seeds)."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One policy, trained once (refined once, with a method) and evaluated in one way."""

    task: str
    policy: str
    demonstrations: int
    seed: int
    """Of the training; with a method, of the refinement."""
    settings: tuple[str, ...] = field(default=(), compare=False)
    """Further words of its command line of training, or of refinement."""
    variant: str = ""
    """A name for its settings, where one policy stands in a table twice."""
    trained: str = field(default="", compare=False)
    """The variant that trains the policy, if it is another's."""
    evaluation: str = ""
    """A name for the way it is evaluated, where the same weights are evaluated in several."""
    evaluation_settings: tuple[str, ...] = field(default=(), compare=False)
    """Further words of its evaluation's command line."""
    method: str = ""
    """Refinement method; the base is the policy of training seed 0, kept by a row before."""
    method_variant: str = ""
    """A name for its settings, where one method stands in a table twice."""
    keep: bool = field(default=False, compare=False)
    """Keep the trained policy below `BASES`, to be refined."""

    @property
    def method_label(self) -> str:
        """Method and its variant."""
        return f"{self.method}-{self.method_variant}" if self.method_variant else self.method

    @property
    def base(self) -> Cell:
        """The policy that is refined."""
        return replace(self, seed=0, settings=(), method="", method_variant="", evaluation="")

    @property
    def kept(self) -> Path:
        """Where the policy is kept, below the results directory."""
        return BASES / self.file.with_suffix("")

    @property
    def label(self) -> str:
        """Policy and variant."""
        return f"{self.policy}-{self.variant}" if self.variant else self.policy

    @property
    def file(self) -> Path:
        """Its result file, below the results directory."""
        where = Path(self.task, self.label, f"n{self.demonstrations}", self.method_label, self.evaluation)
        return where / f"seed{self.seed}.json"


@dataclass(frozen=True, kw_only=True)
class Row:
    """Cells that differ in task, number of demonstrations, evaluation and seed only."""

    task: tuple[str, ...]
    policy: str
    demonstrations: tuple[int, ...]
    seeds: tuple[int, ...]
    settings: tuple[str, ...] = ()
    variant: str = ""
    trained: str = ""
    """The variant whose policies are evaluated, if they are another row's (of the same settings)."""
    evaluations: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"": ()})
    """Words of ``scripts/evaluate.py`` by name; the same weights are evaluated in each way."""
    method: str = ""
    method_variant: str = ""
    keep: bool = False

    def __post_init__(self) -> None:
        for name in ("task", "demonstrations", "seeds"):
            if not isinstance(getattr(self, name), tuple) or not getattr(self, name):
                raise ConfigError(f"In a plan's row {name} is a list, got {getattr(self, name)!r}.")

    def cells(self) -> list[Cell]:
        """Seeds vary fastest, then evaluations, then demonstrations, then tasks."""
        return [
            Cell(
                task=task,
                policy=self.policy,
                demonstrations=n,
                seed=seed,
                settings=self.settings,
                variant=self.variant,
                trained=self.trained,
                evaluation=evaluation,
                evaluation_settings=tuple(words),
                method=self.method,
                method_variant=self.method_variant,
                keep=self.keep,
            )
            for task in self.task
            for n in self.demonstrations
            for evaluation, words in self.evaluations.items()
            for seed in self.seeds
        ]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A table of the results page."""

    title: str
    rows: tuple[Row, ...]
    table: Literal["success", "comparison", "conditions", "demonstrations", "refinement", "returns"] = (
        "success"
    )
    """A line for each policy with all seeds; the same with routes and costs; with a column for each way it is
    evaluated, beside the first policy of the same demonstrations; success against the number of
    demonstrations; what refinement gained and cost; or the same in return."""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be run, in order of importance.

    Raises:
        ConfigError: no row trains what another one evaluates, with its settings.
    """

    sections: tuple[Section, ...]
    title: str = "Results"
    seeds: str = "Every number is measured on report seeds, which no training, tuning or choosing has seen."
    """What the page says of its episodes."""

    def __post_init__(self) -> None:
        cells = self.cells()
        settings = {replace(cell, evaluation=""): cell.settings for cell in cells if not cell.trained}
        for cell in cells:
            trains = replace(cell, variant=cell.trained, evaluation="")
            if cell.trained and settings.get(trains) != cell.settings:
                same = {
                    c.variant for c in settings if c.policy == cell.policy and settings[c] == cell.settings
                }
                raise ConfigError(f"{cell.file}: {unknown('variant of its settings', cell.trained, same)}")

    def cells(self) -> list[Cell]:
        """Every cell once, in order."""
        return list(dict.fromkeys(c for s in self.sections for row in s.rows for c in row.cells()))


def read_plan(path: str | Path) -> Plan:
    """A plan from its yaml; lists of words may hold lists, those that rows share by alias.

    Raises:
        ConfigError: the file is missing, is not YAML, or has unknown or missing keys.
    """
    if not Path(path).is_file():
        raise ConfigError(f"There is no plan {path}.")
    try:
        values = yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    return parse(Plan, _flat(values or {}), str(path))


def _flat(value: Any) -> Any:
    """Mappings and lists without lists directly inside of lists."""
    if isinstance(value, Mapping):
        return {key: _flat(inner) for key, inner in value.items()}
    if not isinstance(value, list):
        return value
    parts = [_flat(inner) for inner in value]
    return [word for part in parts for word in (part if isinstance(part, list) else [part])]


def write_result(
    path: str | Path,
    cell: Cell,
    measured: Measured,
    *,
    config: Mapping[str, Any],
    wall_seconds: Mapping[str, float],
    refinement: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a result file, whole or not at all, with what is needed to judge and repeat it.

    Args:
        config: the whole configuration of the training.
        wall_seconds: by stage ("train", ...); the evaluation's is added.
        refinement: the summary of a refinement and its curve.
    """
    result = {
        "format": FORMAT,
        "cell": plain(asdict(cell)),
        "evaluation": measured.evaluation.to_dict(),
        "config": plain(config),
        "wall_seconds": {**wall_seconds, "evaluate": measured.evaluation.wall_seconds},
        **stamp(),
    }
    extra = {"sampling": measured.sampling, "coverage": measured.coverage, "refinement": refinement}
    result |= {key: plain(value) for key, value in extra.items() if value is not None}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(partial, path)
    return result


def read_results(directory: str | Path) -> dict[Cell, dict[str, Any]]:
    """Every result file below a directory, but for those in the directories named above.

    Raises:
        DataError: a file cannot be read, or two describe the same cell.
    """
    found: dict[Cell, dict[str, Any]] = {}
    where: dict[Cell, Path] = {}
    for path in sorted(Path(directory).rglob("*.json")):
        if path.relative_to(directory).parts[0] in (BASES, BENCHMARK, CHECKS, PIPELINES, TUNING):
            continue
        try:
            result = json.loads(path.read_text())
            if result["format"] > FORMAT:
                raise DataError(f"{path} has format {result['format']}; install a newer robopolicy.")
            cell = parse(Cell, result["cell"], str(path))
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path} is not a result file: {error!r}") from error
        if cell in found:
            raise DataError(f"{path} and {where[cell]} describe the same cell.")
        found[cell], where[cell] = result, path
    return found


def successes(result: Mapping[str, Any], definition: str = "success") -> list[bool]:
    """Success of each episode of a result, in the order of its seeds ("success" or "success_final")."""
    return [bool(row[definition]) for row in result["evaluation"]["episodes"]]
