"""Which of several policies is best, from evaluations on the same episodes; and does a cheap judge agree?"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.errors import ConfigError, DataError
from robopolicy.evaluation.evaluate import Evaluation
from robopolicy.evaluation.machine import stamp
from robopolicy.evaluation.markdown import markdown
from robopolicy.evaluation.ranking import agreement, bradley_terry, mmrv, pearson, spearman
from robopolicy.evaluation.statistics import paired_difference

__all__ = ["METRICS", "CompareConfig", "compare", "compared", "short_names", "table"]

METRICS = {"mmrv": mmrv, "pearson": pearson, "spearman": spearman}


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """The root of ``configs/compare.yaml``."""

    evaluations: tuple[str, ...]
    """Directories of evaluations, or runs that have one in ``evaluation``; the first is compared with."""
    proxies: tuple[str, ...] = ()
    """As many, in the same order: the same policies judged in a cheaper way, on episodes of its own."""
    out: str | None = None
    """A JSON file."""

    def __post_init__(self) -> None:
        if len(self.evaluations) < 2:
            raise ConfigError("compare needs at least two evaluations=[...].")
        if self.proxies and len(self.proxies) != len(self.evaluations):
            raise ConfigError(
                f"compare: {len(self.evaluations)} evaluations need as many proxies, got {len(self.proxies)}."
            )


def compare(config: CompareConfig) -> dict[str, Any]:
    """Successes, paired differences and strengths of the policies; with proxies, how well those rank them.

    Raises:
        DataError: an evaluation is missing, or two are of different tasks or episodes.
    """
    names = short_names(config.evaluations)
    measured = _read(names, config.evaluations)
    first = next(iter(measured.values()))
    found: dict[str, Any] = {"task": first.task.name, "block": first.block, "episodes": len(first.rows)}
    found["policies"] = compared(measured)
    if config.proxies:
        judges = [_scores(_read(names, paths)) for paths in (config.proxies, config.evaluations)]
        found["agreement"] = {name: asdict(agreement(metric, *judges)) for name, metric in METRICS.items()}
    if config.out is not None:
        Path(config.out).parent.mkdir(parents=True, exist_ok=True)
        Path(config.out).write_text(json.dumps(found | stamp(), indent=1) + "\n")
    return found


def compared(measured: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Success of each, its difference to the first on the same episodes, and strengths by Bradley-Terry.

    Of two episodes that succeed the quicker one wins.
    """
    wins = {name: [row.success for row in m.rows] for name, m in measured.items()}
    first = next(iter(wins.values()))
    quickness = [[1 / row.first_success if row.success else 0.0 for row in m.rows] for m in measured.values()]
    strengths = bradley_terry(np.asarray(quickness))
    return {
        name: {
            "success": asdict(m.success),
            "difference": asdict(paired_difference([wins[name]], [first])),
            "strength": asdict(strength),
            "seconds_per_episode": m.seconds_per_episode,
        }
        for (name, m), strength in zip(measured.items(), strengths, strict=True)
    }


def table(found: Mapping[str, Any]) -> str:
    """What `compare` found, for people."""

    def share(value: Mapping[str, float], sign: str = "") -> str:
        return f"{value['value']:{sign}.1%} [{value['low']:{sign}.1%}, {value['high']:{sign}.1%}]"

    def number(value: Mapping[str, float]) -> str:
        return f"{value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"

    rows = found["policies"]
    lines = [
        [name, share(row["success"]), share(row["difference"]["interval"], "+"), number(row["strength"])]
        for name, row in rows.items()
    ]
    lines[0][2] = ""
    text = markdown(["Policy", "Success [95%]", f"Against {next(iter(rows))}", "Strength"], lines)
    if "agreement" in found:
        agreed = [[name, number(value)] for name, value in found["agreement"].items()]
        text += "\n" + markdown(["Do the proxies rank alike?", "Value [95%]"], agreed)
    return text


def short_names(paths: Sequence[str]) -> list[str]:
    """The paths without what they all begin and end with."""
    parts = [Path(path).parts for path in paths]
    if len(set(parts)) < len(parts):
        raise ConfigError(f"compare was given one evaluation twice: {', '.join(paths)}.")
    start = _shared(parts)
    end = _shared([p[start:][::-1] for p in parts])
    return ["/".join(p[start : len(p) - end]) or path for p, path in zip(parts, paths, strict=True)]


def _shared(parts: Sequence[Sequence[str]]) -> int:
    """How many first parts are the same in all."""
    return sum(
        1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False))
    )


def _read(names: Sequence[str], paths: Sequence[str]) -> dict[str, Evaluation]:
    found = {}
    for name, path in zip(names, paths, strict=True):
        inside = Path(path) / "evaluation"
        found[name] = Evaluation.load(inside if inside.is_dir() else path)
    (first, one), *others = found.items()
    for name, other in others:
        if other.task.name != one.task.name:
            raise DataError(f"{first} was evaluated on {one.task.name}, {name} on {other.task.name}.")
        if (seeds := [row.seed for row in other.rows]) != (wanted := [row.seed for row in one.rows]):
            raise DataError(
                f"Pairs are needed: {first} played {len(wanted)} episodes, seeds {wanted[0]}..{wanted[-1]}, "
                f"and {name} {len(seeds)}, seeds {seeds[0]}..{seeds[-1]}."
            )
    return found


def _scores(measured: Mapping[str, Evaluation]) -> np.ndarray:
    return np.array([[float(row.success) for row in m.rows] for m in measured.values()])
