"""How well a policy follows sketches, and whether it stays out of trouble, for six ways of steering it.

Every setting has the same number of network evaluations a plan. Sketches are feasible (what the task's
expert does from the same start, in episodes nothing was trained on) or infeasible (a line through an
obstacle of each row). Beside the strategies of ITPS stand what half of their effect may be due to: the
Langevin corrector without guidance, and its temperature.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from robopolicy.env import RobotEnv, make_env
from robopolicy.errors import ConfigError, MissingCapability
from robopolicy.evaluation.machine import stamp
from robopolicy.evaluation.statistics import wilson
from robopolicy.registry import build
from robopolicy.rollout import Episode, PolicyActor, run_episodes
from robopolicy.seeding import BLOCKS, derive, episode_seeds, rng
from robopolicy.vector import LaneVectorEnv

if TYPE_CHECKING:
    from robopolicy.policies.policy import Policy, Sample
    from robopolicy.task import Task

__all__ = [
    "LEVELS",
    "PLACES",
    "GuidanceStudyConfig",
    "Setting",
    "drawn",
    "follow",
    "line_of",
    "run_guidance_study",
    "settings",
]

PLACES = ("checkpoint", "out", "device")
"""Settings that are about this machine, which a result file leaves out."""
LEVELS = 8
"""Noise levels of stochastic sampling; with 4 Langevin steps at each it costs 40 evaluations."""


@dataclass(frozen=True, kw_only=True)
class GuidanceStudyConfig:
    """The root of ``configs/guidance_study.yaml``."""

    checkpoint: str
    episodes: int = 40
    """Sketches of each kind, a start each."""
    strengths: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0)
    """Of guided diffusion and stochastic sampling."""
    budget: int = 40
    """Network evaluations a plan; a multiple of 40."""
    block: str = "report"
    offset: int = 0
    position: str = "position"
    """Observation that is compared with the sketch."""
    obstacles: str = "obstacles"
    """Observation that infeasible sketches go through."""
    out: str = "results/checks"
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.budget < 40 or self.budget % 40 or not self.strengths:
            raise ConfigError(
                f"guidance_study needs episodes >= 1, strengths and a budget of 40, 80, ..., got "
                f"{self.episodes}, {list(self.strengths)}, {self.budget}."
            )
        if self.block not in BLOCKS:
            raise ConfigError(f"guidance_study: block is one of {', '.join(BLOCKS)}, got {self.block}.")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One line of the table."""

    label: str
    steps: int
    """Of DDIM."""
    steer: Mapping[str, Any]
    strength: float


def settings(config: GuidanceStudyConfig) -> list[Setting]:
    """Every strategy at several strengths, and the controls, at equal evaluations a plan."""
    budget, levels = config.budget, LEVELS * config.budget // 40
    found = [Setting(label="random", steps=budget, steer={"name": "random"}, strength=0.0)]
    found += [
        Setting(
            label="output perturbation", steps=budget, strength=share,
            steer={"name": "output_perturbation", "strength": share},
        )
        for share in (0.25, 0.5, 1.0)
    ]  # fmt: skip
    found += [
        Setting(
            label="post-hoc ranking", steps=budget // many, strength=many,
            steer={"name": "ranking", "candidates": many},
        )
        for many in (2, 4, 8)
    ]  # fmt: skip
    found += [
        Setting(
            label="biased initialisation", steps=round((budget - 1) / (1 - share)), strength=share,
            steer={"name": "biased", "strength": share},
        )
        for share in (0.2, 0.4, 0.6)
    ]  # fmt: skip
    for stop, label in ((0.0, "guided diffusion"), (0.3, "guided diffusion, stopped at 0.3")):
        found += [
            Setting(
                label=label, steps=budget, strength=strength,
                steer={"name": "guided", "strength": strength, "stop": stop},
            )
            for strength in config.strengths
        ]  # fmt: skip
    for temperature in (1.0, 0.7):
        warm = f"stochastic sampling, temperature {temperature:g}"
        for strength in (0.0, *config.strengths):
            corrector = {"steps": 4, "eta": 0.3, "temperature": temperature}
            steer = {"name": "stochastic", "strength": strength, "corrector": corrector}
            label = warm if strength else f"corrector alone, temperature {temperature:g}"
            found.append(Setting(label=label, steps=levels, steer=steer, strength=strength))
    return found


def run_guidance_study(config: GuidanceStudyConfig) -> tuple[Path, dict[str, Any]]:
    """Measure every setting on both kinds of sketches; written to one file.

    Raises:
        ConfigError: a checkpoint without a task, or trained on the seeds of the study.
    """
    from robopolicy.device import choose_device
    from robopolicy.learning.checkpoint import load

    policy = load(config.checkpoint, device=choose_device(config.device))
    task = policy.provenance.task
    if task is None:
        raise ConfigError(f"{config.checkpoint} has no task to follow sketches in.")
    seeds = episode_seeds(config.block, config.episodes, config.offset)
    if used := sorted({*seeds} & {*policy.provenance.used_seeds}):
        raise ConfigError(f"The policy has seen {len(used)} of these episodes, as seed {used[0]}.")
    sketches = drawn(task, seeds, config)
    rows = []
    for setting in settings(config):
        row = {**asdict(setting), **follow(policy, task, seeds, setting, sketches, config.position)}
        rows.append(row)
        print(line_of(row), flush=True)
    found = {
        "task": task.to_dict(),
        "policy": _made(policy),
        "config": {key: value for key, value in asdict(config).items() if key not in PLACES},
        "unit": policy.spec.observations[config.position].unit,
        "rows": rows,
        **stamp(),
    }
    path = Path(config.out) / f"itps_{task.env['name']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    return path, found


def drawn(task: Task, seeds: Sequence[int], config: GuidanceStudyConfig) -> dict[str, list[np.ndarray]]:
    """Feasible and infeasible sketches `[M, P]` from the start of each episode."""
    env = make_env(task)
    try:
        return {
            "feasible": [_demonstrated(env, task, seed, config.position) for seed in seeds],
            "infeasible": [_through(env, seed, config) for seed in seeds],
        }
    finally:
        env.close()


def follow(
    policy: Policy,
    task: Task,
    seeds: Sequence[int],
    setting: Setting,
    sketches: Mapping[str, Sequence[np.ndarray]],
    position: str,
) -> dict[str, Any]:
    """One episode for each sketch: how far plans and path are from it, and how many episodes succeed.

    The episodes of all kinds run beside each other; those of one start have the same noise.
    """
    from robopolicy.steering.guidance import Sketch

    lines = [line for kind in sketches.values() for line in kind]
    sampler = {"name": "ddim", "steps": setting.steps}
    steered = build("steer", setting.steer, policy=policy.with_sampler(sampler), guidance=Sketch(lines))
    listener = _Listener(steered)
    actor = PolicyActor(listener)  # type: ignore[arg-type]
    envs = LaneVectorEnv(task, len(lines), workers=0, chunk=actor.action_horizon)
    try:
        started = [*seeds] * len(sketches)
        episodes = sorted(run_episodes(envs, actor, started, record=True), key=lambda e: e.index)
    finally:
        envs.close()
    planned = np.stack(listener.distances)
    found: dict[str, Any] = {"evaluations": listener.calls}
    for number, kind in enumerate(sketches):
        part = episodes[number * len(seeds) : (number + 1) * len(seeds)]
        chunks = [-(-episode.steps // actor.action_horizon) for episode in part]
        found[kind] = {
            "planned": _mean(planned[:count, e.index].mean() for e, count in zip(part, chunks, strict=True)),
            "executed": _mean(_gap(e, lines[e.index], position) for e in part),
            "valid": asdict(wilson(sum(e.success for e in part), len(part))),
            "episodes": len(part),
        }
    return found


def _mean(values: Iterable[float]) -> float:
    return float(np.mean([*values]))


def line_of(row: Mapping[str, Any]) -> str:
    """One row of the table, for people."""
    text = f"{row['label']:36} {row['strength']:5g} {row['evaluations']:4d} calls"
    for kind in ("feasible", "infeasible"):
        part = row[kind]
        text += f"  {kind}: {100 * part['planned']:5.1f} cm planned, {part['valid']['value']:4.0%} valid"
    return text


def _made(policy: Policy) -> dict[str, Any]:
    """How a policy was trained, and on how much."""
    provenance = policy.provenance
    parts = {key: provenance.config.get(key) for key in ("policy", "codec", "trainer")}
    return {"step": provenance.step, "demonstrations": len(provenance.used_seeds), **parts}


class _Listener:
    """A steered policy that notes how far its plans are from the sketches."""

    def __init__(self, policy: Any) -> None:
        self.policy, self.calls = policy, 0
        self.distances: list[np.ndarray] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def sample(self, observation: Mapping[str, Any], **arguments: Any) -> Sample:
        made: Sample = self.policy.sample(observation, **arguments)
        alignment = self.policy.alignment
        here = torch.as_tensor(observation[alignment.positions.key][:, -1])
        self.distances.append(alignment.distance(torch.as_tensor(made.actions[:, 0]), here).numpy())
        self.calls = made.calls
        return made


def _gap(episode: Episode, line: np.ndarray, position: str) -> float:
    """Mean distance of an episode's positions from a line."""
    from robopolicy.steering.sketch import Lines, resample

    places = torch.from_numpy(episode.data[position].astype(np.float64))
    lines = Lines(torch.from_numpy(resample(line)).expand(len(places), -1, -1).contiguous())
    return float((lines.at(lines.nearest(places)[:, None])[:, 0] - places).norm(dim=-1).mean())


def _demonstrated(env: RobotEnv, task: Task, seed: int, position: str) -> np.ndarray:
    """Positions of a demonstration that succeeds."""
    for attempt in range(10):
        observation, _ = env.reset(seed=seed)
        expert = env.expert(derive(seed, f"sketch {attempt}"), task.expert)
        places = [observation[position]]
        for _ in range(task.horizon):
            observation, _, terminated, _, info = env.step(expert.act(observation))
            places.append(observation[position])
            if info["success"]:
                return np.stack(places)
            if terminated:
                break
    raise MissingCapability(f"The expert of {task.name} fails again and again from seed {seed}.")


def _through(env: RobotEnv, seed: int, config: GuidanceStudyConfig) -> np.ndarray:
    """From the start through an obstacle of each row (obstacles of equal y), and straight on."""
    observation, _ = env.reset(seed=seed)
    centres = observation[config.obstacles].reshape(-1, 2)
    draw = rng(seed, "infeasible sketch")
    places = [observation[config.position]]
    places += [draw.choice(centres[centres[:, 1] == y]) for y in np.unique(centres[:, 1])]
    return np.stack([*places, places[-1] + [0.0, 0.25]])
