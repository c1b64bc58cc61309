"""From a checkpoint to episodes on a robot: what ``scripts/deploy.py`` runs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware.command_map import CommandMap
from hardware.executor import Executor, ExecutorConfig
from hardware.film import Film
from hardware.link import default_directory
from hardware.messages import Command
from hardware.observe import Observer
from hardware.record import EpisodeRecorder
from hardware.session import Session, SessionConfig, in_its_scene, with_cameras
from hardware.spec import LifeState, RobotSpec
from hardware.wire_results import WireResults
from robopolicy.errors import ConfigError
from robopolicy.registry import to_dict
from robopolicy.rollout import PolicyActor
from robopolicy.seeding import block_of, episode_seeds, refuse_overlap

if TYPE_CHECKING:
    from robopolicy.policies.policy import Policy

__all__ = ["DeployConfig", "Runner", "WireEpisode", "deploy", "run_directory"]

_LOOP_S = 0.004
_STATUS_S = 0.2


@dataclass(frozen=True, kw_only=True)
class DeployConfig:
    """The root of ``configs/deploy.yaml``."""

    robot: RobotSpec
    checkpoint: str
    episodes: int = 1
    block: str = "report"
    offset: int = 0
    horizon: int = 0
    """Longest episode in policy steps; 0: that of the checkpoint's task."""
    success_hold: int = 10
    """Policy steps that an episode goes on after it succeeded."""
    out: str = "outputs/deploy"
    """Directory: ``episodes.zarr``, films."""
    record: bool = True
    results: str | None = None
    """A JSON file with success over the wire; what it has under `label` is gone on with."""
    label: str = "as is"
    reference: str | None = None
    """``evaluation.json`` of the same policy and seeds in the simulator, to compare with in `results`."""
    session: SessionConfig = field(default_factory=SessionConfig)
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    sampler: Mapping[str, Any] | None = None
    steer: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.episodes < 1 or min(self.horizon, self.offset, self.success_hold) < 0:
            raise ConfigError("Need episodes >= 1 and horizon, offset, success_hold >= 0.")


@dataclass(frozen=True)
class WireEpisode:
    """One episode on a robot."""

    seed: int
    success: bool
    steps: int
    seconds: float
    tripped: str
    """Why the guard stopped it, if it did."""
    tracking_mm: float | None
    """Root mean square of the distance between where the policy wanted the hand and where it was; None for
    policies that move joints."""
    inference_ms: float
    """Median, from observation to submission."""
    observation_age_ms: float
    """Median age of the observation that a chunk was made from, when it arrived."""
    late_ticks: int
    """Control ticks that were missed."""
    reasons: dict[str, int]
    """How often the guard did what."""


def deploy(
    config: DeployConfig,
    *,
    ask: Callable[[str], str] = input,
    say: Callable[[str], None] | None = None,
) -> list[WireEpisode]:
    """Run a checkpoint's episodes on a robot, stop it, and leave what happened in `out`.

    Raises:
        ConfigError: a real robot without acknowledgement of its emergency stop.
        SpecMismatch: the robot cannot supply what the policy observes, or not do what it asks.
    """
    policy = _load(config)
    scene = in_its_scene(config.robot, config.session, policy.provenance.task)
    config = dataclasses.replace(config, session=scene)
    # The cheap refusals come first: nothing has been started yet.
    observer = Observer(config.robot, policy.spec, matching=config.executor.latency_matching)
    command_map = CommandMap(config.robot, policy.spec.action)
    seeds = episode_seeds(config.block, config.episodes, config.offset)
    if block_of(seeds[0]) == "report":
        refuse_overlap(seeds, policy.provenance.used_seeds, "training or choosing this policy")
    results = WireResults(config.results, config.label, config.reference) if config.results else None
    if results is not None:
        seeds = [seed for seed in seeds if seed not in results.seeds]
        if not seeds:
            return []
    done = []
    cameras = with_cameras(config.robot, config.session, policy.spec)
    with run_directory() as directory, Session(config.robot, directory, cameras, ask=ask) as session:
        runner = Runner(policy, session, observer, command_map, config, say or _show)
        for seed in seeds:
            episode = runner.run(seed)
            done.append(episode)
            if results is not None:
                results.add(asdict(episode), settings=_settings(config, policy))
    return done


class Runner:
    """Episodes of one policy in one session."""

    def __init__(
        self,
        policy: Policy,
        session: Session,
        observer: Observer,
        command_map: CommandMap,
        config: DeployConfig,
        say: Callable[[str], None],
    ) -> None:
        self.session, self.observer, self.config, self._say = session, observer, config, say
        task = policy.provenance.task
        self._horizon = config.horizon or (task.horizon if task else 0)
        if not self._horizon:
            raise ConfigError(f"{config.checkpoint} has no task: give horizon=... in policy steps.")
        self.executor = Executor(
            _actor(policy, config.executor),
            session.link,
            observer,
            command_map,
            config.executor,
            replan=policy.action_horizon,
            instruction=task.instruction if task else "",
        )
        self._recorder = None
        if config.record:
            path = _fresh(Path(config.out) / "episodes.zarr")
            described = task.to_dict() if task else None
            self._recorder = EpisodeRecorder(path, policy.spec, session.robot, task=described)
        self._film = Film(session.link, config.session.film)
        positions = [where for part, where in policy.spec.action.slices() if part.kind == "position"]
        self._position = positions[0] if positions else None

    def run(self, seed: int) -> WireEpisode:
        """Reset, act until it succeeded, was stopped or ran out of time; record and film it.

        Raises:
            RobotError: the robot could not be armed.
            DataError: the recording could not be written; the robot has been stopped.
        """
        session, executor, link = self.session, self.executor, self.session.link
        executor.begin(seed)
        session.reset(seed, wait_for=self._silent)
        executor.begin(seed)
        while executor.collect():
            time.sleep(_LOOP_S)
        self._film.begin()
        steps, succeeded_at, tripped, status_at = 0, None, "", 0.0
        errors: list[float] = []
        inference: list[float] = []
        ages: list[float] = []
        reasons: dict[str, int] = {}
        begun, missed = time.monotonic_ns(), link.ticks()[-1]["missed"]
        while steps < self._horizon:
            if executor.due:
                plan = executor.step()
                inference.append(plan.inference_s)
                ages.append(1e-9 * (time.monotonic_ns() - plan.t_obs_ns))
            now = time.monotonic_ns()
            tick = link.ticks()[-1]
            if tick["latched"]:
                tripped = str(tick["latched"])
                break
            if session.solved() and succeeded_at is None:
                succeeded_at = steps
            if succeeded_at is not None and steps - succeeded_at >= self.config.success_hold:
                break
            if now - begun >= steps * executor.dt_ns:
                errors += self._record(tick, now)
                self._film.watch(steps)
                for reason in tick["reasons"]:
                    reasons[reason] = reasons.get(reason, 0) + 1
                steps = (
                    now - begun
                ) // executor.dt_ns + 1  # time goes on, whether all of it is recorded or not
            if 1e-9 * now - status_at > _STATUS_S:
                status_at = 1e-9 * now
                self._say(_status(seed, steps, tick, inference))
            time.sleep(_LOOP_S)
        seconds = 1e-9 * (time.monotonic_ns() - begun)
        missed = link.ticks()[-1]["missed"] - missed
        session.finish()
        word = session.judge(seed)
        success = bool(word) if word is not None else succeeded_at is not None
        if self._recorder is not None and len(self._recorder):
            self._recorder.commit(seed=seed, success=success, instruction=executor.instruction)
        episode = WireEpisode(
            seed=seed,
            success=success,
            steps=steps,
            seconds=round(seconds, 3),
            tripped=tripped,
            tracking_mm=round(1e3 * float(np.sqrt(np.mean(np.square(errors)))), 2) if errors else None,
            inference_ms=round(1e3 * float(np.median(inference)), 2),
            observation_age_ms=round(1e3 * float(np.median(ages)), 2),
            late_ticks=int(missed),
            reasons=reasons,
        )
        outcome = "succeeded" if success else f"stopped: {tripped}" if tripped else "did not succeed"
        self._say(f"episode {seed}: {outcome} after {steps} steps, {seconds:.1f} s\n")
        if stream := self._film.stream:
            path, fps = Path(self.config.out) / f"episode_{seed}.mp4", 1e9 / executor.dt_ns
            if not self._film.write(path, episode, first_success=succeeded_at, fps=fps):
                self._say(f"no film of episode {seed}: {stream} sent no picture\n")
        return episode

    def _silent(self) -> list[str]:
        return self.executor.collect()

    def _record(self, tick: Mapping[str, Any], now: int) -> list[float]:
        """Record one policy step; how far the hand is from where the policy wants it, if that can be told."""
        executor, observer, link = self.executor, self.observer, self.session.link
        plan = executor.plan
        assert plan is not None
        executor.collect()
        history, t_ns = observer.observe(1, executor.dt_ns, now)
        asked = plan.row(now, executor.dt_ns)
        known = link.observe(64)
        measured = next((seen for seen in reversed(known) if seen.seq <= tick["seq"]), known[0])
        if self._recorder is not None:
            gripper = None if np.isnan(tick["gripper"]) else float(tick["gripper"])
            sent = Command(
                t_ns=int(tick["t_ns"]), valid_until_ns=0, q=tick["q"], dq=tick["dq"], gripper=gripper,
                reasons=tick["reasons"],
            )  # fmt: skip
            self._recorder.step(
                {key: value[0] for key, value in history.items()}, asked, sent, measured,
                chunk_age_s=1e-9 * tick["chunk_age_ns"], late_s=1e-9 * tick["late_ns"],
            )  # fmt: skip
        if self._position is None or not observer.robot.end_effectors:
            return []
        return [float(np.linalg.norm(asked[self._position] - observer.end_effector(t_ns)))]


def _load(config: DeployConfig) -> Policy:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the other cores are for control
    from robopolicy.steering.several import Several
    from robopolicy.steering.steer import load_acting

    policy = load_acting(config.checkpoint, sampler=config.sampler, steer=config.steer)
    if isinstance(policy, Several):  # as many candidates as there is time for until the next chunk
        steps = config.executor.replan_steps or policy.action_horizon
        policy = policy.capped(steps / policy.spec.control_hz)
    return policy


def _actor(policy: Policy, config: ExecutorConfig) -> PolicyActor:
    """All rows that the policy predicts, from the observation's on."""
    rows = policy.pred_horizon - policy.obs_horizon + 1
    if config.mode != "rtc":
        return PolicyActor(policy, rows)
    from robopolicy.policies.continuation import ContinuingActor

    return ContinuingActor(policy, rows)


@contextlib.contextmanager
def run_directory() -> Iterator[Path]:
    """A directory for the rings of a session, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="robopolicy_", dir=default_directory()) as name:
        yield Path(name)


def _fresh(path: Path) -> Path:
    """The path, or with the first number for which nothing exists."""
    number, found = 2, path
    while found.exists():
        found = path.with_name(f"{path.stem}_{number}{path.suffix}")
        number += 1
    found.parent.mkdir(parents=True, exist_ok=True)
    return found


def _settings(config: DeployConfig, policy: Policy) -> dict[str, Any]:
    from robopolicy.steering.steer import Steered

    inner = policy.policy if isinstance(policy, Steered) else policy
    return {
        "policy": to_dict("policy", inner),
        **({"steer": to_dict("steer", policy)} if isinstance(policy, Steered) else {}),
        "trained": {"step": policy.provenance.step, "data": policy.provenance.fingerprint},
        "robot": config.robot.name,
        "simulator": dict(config.session.simulator),
        "executor": asdict(config.executor),
        "horizon": config.horizon,
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }


def _status(seed: int, step: int, tick: Mapping[str, Any], inference: list[float]) -> str:
    state = LifeState(tick["state"]).name
    counted = ", ".join(f"{name} {count}" for name, count in tick["counters"].items() if count)
    late = 1e-6 * tick["late_ns"]
    ask = f"{1e3 * inference[-1]:.0f} ms" if inference else "-"
    return (
        f"episode {seed} step {step:3d} | {state} | late {late:4.1f} ms, missed {tick['missed']} | "
        f"observation {1e-6 * tick['obs_age_ns']:4.1f} ms, chunk {1e-6 * tick['chunk_age_ns']:4.0f} ms, "
        f"policy {ask} | {counted or 'guard: nothing'}"
    )


def _show(line: str) -> None:
    """One line that is written over, or lines of their own where nobody watches."""
    if line.endswith("\n") or not sys.stdout.isatty():
        if line.endswith("\n"):
            print(line, end="", flush=True)
        return
    print("\r\x1b[K" + line[:160], end="", flush=True)
