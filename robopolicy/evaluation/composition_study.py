"""Is a composition of two policies better than each, and than one policy trained on all their data?

Two policies of the same task cloned from different demonstrations are added with equal weights that sum to 1
(the geometric mean) and with weight 1 each (the product), with Langevin steps and without. The second parent
comes in a good and a bad version: composing helps where parents are comparable, and a bad one costs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from robopolicy.errors import ConfigError
from robopolicy.evaluation.coverage import coverage
from robopolicy.evaluation.machine import stamp
from robopolicy.evaluation.statistics import wilson
from robopolicy.rollout import PolicyActor
from robopolicy.seeding import episode_seeds

if TYPE_CHECKING:
    from robopolicy.policies.denoising import DenoisingPolicy
    from robopolicy.policies.policy import Policy
    from robopolicy.task import Task

__all__ = ["LANGEVIN", "NONE", "CompositionStudyConfig", "compositions", "line_of", "run_composition_study"]

LANGEVIN = {"steps": 4, "eta": 0.3}
NONE = {"steps": 0}


@dataclass(frozen=True, kw_only=True)
class CompositionStudyConfig:
    """The root of ``configs/composition_study.yaml``."""

    first: str
    """Checkpoint of one parent."""
    second: str
    """Of the other, about as good."""
    weak: str
    """Of the other, trained on less."""
    pooled: str
    """Of a policy trained on what both were trained on."""
    starts: int = 10
    repetitions: int = 10
    """Episodes from each start."""
    block: str = "report"
    offset: int = 0
    out: str = "results/checks"
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.starts < 1 or self.repetitions < 1:
            raise ConfigError(
                f"composition_study needs starts, repetitions >= 1, got {self.starts}, {self.repetitions}."
            )


def run_composition_study(config: CompositionStudyConfig) -> tuple[Path, dict[str, Any]]:
    """Success and routes of every parent and composition; written to one file.

    Raises:
        ConfigError: checkpoints that do not denoise, have no task, or have seen the study's episodes.
        SpecMismatch: policies whose fields cannot be added.
    """
    names = ("first", "second", "weak", "pooled")
    parents = {name: _parent(getattr(config, name), config.device) for name in names}
    task = parents["first"].provenance.task
    if task is None:
        raise ConfigError(f"{config.first} has no task to be measured in.")
    seeds = episode_seeds(config.block, config.starts, config.offset)
    for name, parent in parents.items():
        if used := sorted({*seeds} & {*parent.provenance.used_seeds}):
            raise ConfigError(f"The {name} policy has seen {len(used)} of these episodes, as seed {used[0]}.")
    rows = []
    for label, policy in compositions(parents):
        rows.append({"label": label, **_measured(policy, task, seeds, config.repetitions)})
        print(line_of(rows[-1]), flush=True)
    found = {
        "task": task.to_dict(),
        "demonstrations": {name: len(parent.provenance.used_seeds) for name, parent in parents.items()},
        "steps": {name: parent.provenance.step for name, parent in parents.items()},
        "config": {key: getattr(config, key) for key in ("starts", "repetitions", "block", "offset")},
        "rows": rows,
        **stamp(),
    }
    path = Path(config.out) / f"composition_{task.env['name']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    return path, found


def compositions(parents: Mapping[str, DenoisingPolicy]) -> Iterator[tuple[str, Policy]]:
    """Every policy that is compared, with its label."""
    from robopolicy.policies.composed import domain_level

    for name, parent in parents.items():
        yield name, parent.with_sampler({"corrector": NONE})
        yield f"{name}, Langevin", parent.with_sampler({"corrector": LANGEVIN})
    for other in ("second", "weak"):
        both = [parents["first"], parents[other]]
        for kind, weights in (("mean", (0.5, 0.5)), ("product", (1.0, 1.0))):
            for how, corrector in (("", NONE), (", Langevin", LANGEVIN)):
                made = domain_level(both, weights, sampler={"corrector": corrector})
                yield f"first and {other}, {kind}{how}", made


def line_of(row: Mapping[str, Any]) -> str:
    """One row of the table, for people."""
    rate = row["success"]
    return (
        f"{row['label']:34} {rate['value']:4.0%} [{rate['low']:.0%}, {rate['high']:.0%}]  "
        f"{row['routes']:2d} routes, entropy {row['entropy']:.2f}, {row['evaluations']} calls"
    )


def _parent(checkpoint: str, device: str) -> DenoisingPolicy:
    from robopolicy.device import choose_device
    from robopolicy.learning.checkpoint import load
    from robopolicy.policies.denoising import DenoisingPolicy

    policy = load(checkpoint, device=choose_device(device))
    if not isinstance(policy, DenoisingPolicy):
        raise ConfigError(
            f"{checkpoint} is a {type(policy).__name__}; composing takes policies that denoise."
        )
    return policy


def _measured(policy: Policy, task: Task, seeds: list[int], repetitions: int) -> dict[str, Any]:
    listener = _Listener(policy)
    measured = coverage(
        lambda repetition: PolicyActor(cast("Policy", listener), repetition=repetition), task, seeds,
        repetitions=repetitions,
    )  # fmt: skip
    found = measured.to_dict()
    successes = sum(start.successes for start in measured.starts)
    return {
        "success": asdict(wilson(successes, len(seeds) * repetitions)),
        "episodes": len(seeds) * repetitions,
        "routes": found["routes_found"],
        "entropy": found["entropy"],
        "expert_entropy": found["expert_entropy"],
        "evaluations": listener.calls,
    }


class _Listener:
    """A policy whose evaluations are noted."""

    def __init__(self, policy: Any) -> None:
        self.policy, self.calls = policy, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def sample(self, observation: Mapping[str, Any], **arguments: Any) -> Any:
        made = self.policy.sample(observation, **arguments)
        self.calls = made.calls
        return made
