"""Practice on a robot: noise steering (DSRL) learns while the robot moves. What ``scripts/practise.py`` runs.

Three processes: the control process plays chunks behind the guard, this one chooses them, and the learner
makes the gradient steps (`robopolicy.rl.learner`). An episode that the guard stops is truncated, and the
replay keeps what was really sent and why.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hardware.deploy import run_directory
from hardware.lane import RobotChunkStep, RobotLane
from hardware.record import reason_names
from hardware.session import Session, SessionConfig, in_its_scene, with_cameras
from hardware.spec import RobotSpec
from robopolicy.errors import ConfigError
from robopolicy.evaluation.evaluate import Evaluation, evaluate
from robopolicy.evaluation.machine import stamp
from robopolicy.evaluation.statistics import paired_difference, wilson
from robopolicy.learning import checkpoint
from robopolicy.learning.run import open_run
from robopolicy.policies.policy import Policy
from robopolicy.registry import build, config_class, get, parse, plain
from robopolicy.rl.dsrl import NoiseRefiner
from robopolicy.rl.learner import Learner, Practising
from robopolicy.rl.practice import Experience
from robopolicy.rollout import PolicyActor
from robopolicy.seeding import episode_seeds
from robopolicy.task import Task

__all__ = ["MAY_CHANGE", "Journal", "PractiseConfig", "practise"]

MAY_CHANGE = ("minutes", "episodes", "results", "session", "force")
_SAID_S = 10.0


@dataclass(frozen=True, kw_only=True)
class PractiseConfig:
    """The root of ``configs/practise.yaml``."""

    robot: RobotSpec
    checkpoint: str
    """The policy whose noise is chosen."""
    method: Mapping[str, Any]
    """dsrl or dsrl_sac; of `update_ratio` gradient steps for each chunk, as many as the learner can make."""
    minutes: float = 30.0
    """Of practice, resets included; more resumes."""
    episodes: int = 50
    """Measured on the robot before and after, on the same report seeds; 0: none."""
    seed: int = 0
    out: str = "outputs/practise"
    results: str | None = None
    """A JSON file for before, after and how practice went."""
    session: SessionConfig = field(default_factory=SessionConfig)
    force: bool = False
    """Go on although the noise hardly moves the actions."""

    def __post_init__(self) -> None:
        if self.minutes < 0 or self.episodes < 0:
            raise ConfigError(f"Need minutes >= 0 and episodes >= 0; got {self.minutes}, {self.episodes}.")


@dataclass
class Journal:
    """How practice went, kept over interruptions."""

    minutes: float = 0.0
    env_steps: int = 0
    next_seed: int = 0
    episodes: list[dict[str, Any]] = field(default_factory=list)
    """seed, success, steps, stopped: why the guard stopped it."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Steps in which the guard changed what was asked, by check."""
    decide_ms: list[float] = field(default_factory=list)
    """From a chunk's end to handing over the next."""
    ticks: int = 0
    missed: int = 0

    def summary(self) -> dict[str, Any]:
        """JSON-ready, for the results."""
        groups = [self.episodes[i : i + 25] for i in range(0, len(self.episodes), 25)]
        decide = np.percentile(self.decide_ms or [0.0], [50, 99]).round(2).tolist()
        return {
            "minutes": round(self.minutes, 2),
            "env_steps": self.env_steps,
            "episodes": len(self.episodes),
            "success_by_25_episodes": [round(float(np.mean([e["success"] for e in g])), 3) for g in groups],
            "stopped": Counter(e["stopped"] for e in self.episodes if e["stopped"]),
            "guard_steps": self.reasons,
            "decide_ms_p50_p99": decide,
            "control_ticks": self.ticks,
            "control_ticks_missed": self.missed,
        }


def practise(
    config: PractiseConfig, *, ask: Callable[[str], str] = input, say: Callable[[str], None] = print
) -> Policy:
    """Measure, practise, measure again; the refined policy is in `out`.

    Raises:
        ConfigError: a method that does not choose noise, or a policy without a task.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the other cores are for control and learning
    base = checkpoint.load(config.checkpoint)
    task = base.provenance.task
    if task is None:
        raise ConfigError(f"{config.checkpoint} has no task, so nobody can tell success.")
    cls = get("method", config.method["name"])
    if not issubclass(cls, NoiseRefiner):
        raise ConfigError(f"A robot practises with dsrl or dsrl_sac, not {config.method['name']}.")
    settings: Any = parse(config_class(cls), {k: v for k, v in config.method.items() if k != "name"})
    if settings.n_step != 1:
        raise ConfigError(f"The learner of a robot is sent single chunks: n_step=1, got {settings.n_step}.")
    out = Path(config.out)
    open_run(out, plain(config), ignore=MAY_CHANGE)
    seeds = episode_seeds("report", config.episodes)
    hold = settings.convention.success_hold
    practised = dataclasses.replace(task, success_hold=task.horizon if hold < 0 else hold)
    scene = in_its_scene(config.robot, config.session, task)
    cameras = with_cameras(config.robot, scene, base.spec)
    with run_directory() as directory, Session(config.robot, directory, cameras, ask=ask) as session:

        def measure(policy: Policy, name: str) -> Evaluation | None:
            return _measured(policy, task, session, seeds, out / name, say) if seeds else None

        before = measure(base, "before")
        journal = _read_journal(out)
        with Learner(config.checkpoint, config.method, out / "learner", seed=config.seed) as learner:
            lane = RobotLane(session, practised, base.spec, chunk=base.action_horizon)
            method = {
                **config.method,
                "data": None,
                "force": config.force,
            }  # demonstrations are the learner's
            refiner: NoiseRefiner = build(
                "method", method, policy=base, envs=lane, seed=config.seed, offset=journal.next_seed
            )
            practising = Practising(refiner, learner, seed=config.seed)
            with contextlib.suppress(KeyboardInterrupt):
                _Loop(config, session, practising, learner, journal, out).run(say)
            learner.close()
            practising.take_actor()
            status = learner.status
        refined = refiner.refined()
        used = dict.fromkeys((*base.provenance.used_seeds, *episode_seeds("practice", journal.next_seed)))
        refined.provenance = dataclasses.replace(
            base.provenance, used_seeds=tuple(used), step=journal.env_steps, config=plain(config)
        )
        checkpoint.save_checkpoint(out / "policy", refined)
        shutil.rmtree(out / "after", ignore_errors=True)
        after = measure(refined, "after") if journal.minutes >= config.minutes else None
    if config.results:
        _write(Path(config.results), config, journal, status, before, after)
    return refined


class _Loop:
    """Practise, keep the journal, say how it goes."""

    def __init__(
        self,
        config: PractiseConfig,
        session: Session,
        practising: Practising,
        learner: Learner,
        journal: Journal,
        out: Path,
    ) -> None:
        self.config, self.session, self.practising, self.learner = config, session, practising, learner
        self.journal, self.out = journal, out
        practising.practice.env_steps = journal.env_steps

    def run(self, say: Callable[[str], None]) -> None:
        """Until the minutes are over or somebody interrupts."""
        journal, config = self.journal, self.config
        begun, already, said = time.monotonic(), journal.minutes, 0.0
        first = self.session.link.ticks()[-1]
        try:
            while journal.minutes < config.minutes:
                self._chunk()
                journal.minutes = already + (time.monotonic() - begun) / 60
                if time.monotonic() - said > _SAID_S:
                    said = time.monotonic()
                    say(self._line())
        finally:
            newest = self.session.link.ticks()[-1]
            period = self.session.robot.period_ns
            journal.ticks += (int(newest["t_ns"]) - int(first["t_ns"])) // period
            journal.missed += int(newest["missed"]) - int(first["missed"])
            journal.next_seed = self.practising.practice.next_seed
            self._keep()

    def _chunk(self) -> None:
        practice, journal = self.practising.practice, self.journal
        begins, seed = not practice.runner.time[0], int(practice.view.seeds[0])
        experience, seconds = self.practising.step(_sent_and_why)
        if not begins:
            journal.decide_ms.append(1e3 * seconds)
        step = _on_robot(experience)
        journal.env_steps = practice.env_steps
        for bits in step.reasons[0, : step.steps[0]]:
            for name in reason_names(int(bits)):
                journal.reasons[name] = journal.reasons.get(name, 0) + 1
        if step.terminated[0] or step.truncated[0]:
            episode = practice.statistics()
            journal.episodes.append(
                {
                    "seed": seed,
                    "success": bool(episode["practice_success"]),
                    "steps": int(episode["practice_length"]),
                    "stopped": step.stopped,
                }
            )
            self._keep()

    def _keep(self) -> None:
        partial = self.out / ".journal.json"
        partial.write_text(json.dumps(asdict(self.journal)))
        os.replace(partial, self.out / "journal.json")

    def _line(self) -> str:
        journal, status = self.journal, self.learner.status
        recent = [episode["success"] for episode in journal.episodes[-25:]]
        rate = f"{np.mean(recent):.0%} of the last {len(recent)}" if recent else "no episode yet"
        warming = ", warming up" if self.practising.refiner.warming else ""
        return (
            f"{journal.minutes:5.1f} of {self.config.minutes:g} min | "
            f"{len(journal.episodes)} episodes, {rate} | "
            f"{journal.env_steps} steps, {status['updates']} updates{warming}"
        )


def _on_robot(experience: Experience) -> RobotChunkStep:
    step = experience.transition.step
    assert isinstance(step, RobotChunkStep)
    return step


def _sent_and_why(experience: Experience) -> dict[str, np.ndarray]:
    """What the replay keeps beside what was asked."""
    step = _on_robot(experience)
    return {"sent": step.sent, "reasons": step.reasons}


def _measured(
    policy: Policy, task: Task, session: Session, seeds: list[int], out: Path, say: Callable[[str], None]
) -> Evaluation:
    """Success on the robot; what was measured already is read."""
    if (out / "evaluation.json").is_file():
        return Evaluation.load(out)
    lane = RobotLane(session, task, policy.spec, chunk=policy.action_horizon)
    used = policy.provenance.used_seeds
    found = evaluate(PolicyActor(policy), task, envs=lane, seeds=seeds, used_seeds=used, progress=False)
    found.save(out)
    say(f"{out.name}: {found.summary()}")
    return found


def _read_journal(out: Path) -> Journal:
    path = out / "journal.json"
    if not path.is_file():
        return Journal()
    return Journal(**json.loads(path.read_text()))


def _write(
    path: Path,
    config: PractiseConfig,
    journal: Journal,
    status: Mapping[str, Any],
    before: Evaluation | None,
    after: Evaluation | None,
) -> None:
    found: dict[str, Any] = {
        "robot": config.robot.name,
        "method": plain(config.method),
        "simulator": dict(config.session.simulator),
        "practice": journal.summary(),
        "learner": {key: status[key] for key in ("rows", "updates", "busy_s")},
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }
    for name, measured in (("before", before), ("after", after)):
        if measured is not None:
            won = [row.success for row in measured.rows]
            found[name] = {
                "success": asdict(wilson(sum(won), len(won))),
                "episodes": [{"seed": row.seed, "success": row.success} for row in measured.rows],
            }
    if before is not None and after is not None:
        pair = [[row.success for row in measured.rows] for measured in (after, before)]
        difference = paired_difference([pair[0]], [pair[1]])
        found["after_minus_before"] = {
            "pairs": len(pair[0]),
            "confidence": 0.95,
            **asdict(difference.interval),
            "verdict": difference.verdict,
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**found, **stamp()}, indent=1) + "\n")
