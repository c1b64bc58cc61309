"""Episodes by a person, or by a policy with a person at hand: what ``scripts/teleoperate.py`` runs."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware.deploy import run_directory
from hardware.session import Session, SessionConfig, with_cameras
from hardware.spec import RobotSpec
from hardware.teleop.derive import derive_spec, with_references
from hardware.teleop.device import Device, make_device
from hardware.teleop.human import Human, HumanConfig
from hardware.teleop.rigs import EnvRig, Rig, RobotRig
from hardware.teleop.view import View
from robopolicy.env import make_env
from robopolicy.errors import ConfigError
from robopolicy.rollout import LaneView, PolicyActor
from robopolicy.seeding import BLOCKS
from robopolicy.spec import Spec
from robopolicy.task import Task

if TYPE_CHECKING:
    from robopolicy.policies.policy import Policy

__all__ = ["LOOK_AHEAD", "Driven", "Driver", "TeleoperateConfig", "teleoperate"]

LOOK_AHEAD = 8
"""Rows that a person's action is held for, should the next be late."""
_STATUS_S = 0.2
_STREAMS_S = 3.0


@dataclass(frozen=True, kw_only=True)
class TeleoperateConfig:
    """The root of ``configs/teleoperate.yaml``."""

    device: Mapping[str, Any]
    robot: RobotSpec | None = None
    """Without one, the task's environment runs in this process."""
    task: Mapping[str, Any] | None = None
    checkpoint: str | None = None
    """A policy acts, and a person takes over by touching the device."""
    episodes: int = 10
    """In the store, kept ones."""
    seconds: float = 60.0
    """Longest episode."""
    success_hold: int = 10
    """Policy steps that an episode goes on after it succeeded."""
    control_hz: float = 20.0
    """Of a robot without a task."""
    release_s: float = 1.0
    """The policy goes on when the device has been at rest for so long."""
    out: str | None = None
    """The store, gone on with; ``data/<task, checkpoint or robot>_teleop.zarr`` by default."""
    view: str = ""
    """A camera to look at in a browser while driving: one of the simulated scene, or a stream of images."""
    view_port: int = 8008
    offset: int = 0
    """First seed within the block of collection seeds."""
    human: HumanConfig = field(default_factory=HumanConfig)
    session: SessionConfig = field(default_factory=SessionConfig)

    def __post_init__(self) -> None:
        if self.episodes < 1 or min(self.success_hold, self.offset) < 0:
            raise ConfigError("Need episodes >= 1 and success_hold, offset >= 0.")
        if not min(self.seconds, self.control_hz, self.release_s) > 0:
            raise ConfigError("Need seconds, control_hz and release_s > 0.")
        if self.robot is None and self.task is None and self.checkpoint is None:
            raise ConfigError("Give task=..., robot=... or checkpoint=...: there is nothing to drive.")

    @property
    def store(self) -> Path:
        """Where episodes go."""
        if self.out:
            return Path(self.out)
        task = self.task["name"] if self.task else None
        source = self.checkpoint and Path(self.checkpoint.rstrip("/")).name
        return Path(f"data/{task or source or (self.robot and self.robot.name)}_teleop.zarr")


@dataclass(frozen=True)
class Driven:
    """One episode that was kept."""

    seed: int
    steps: int
    by_person: int
    """Steps in which a person acted."""
    success: bool
    stopped: str
    """Why the guard stopped the robot, if it did."""


def teleoperate(
    config: TeleoperateConfig, *, device: Device | None = None, say: Callable[[str], None] | None = None
) -> list[Driven]:
    """Drive until the store has its episodes or the person quits.

    Raises:
        ConfigError: nothing to drive, an action that no hand can steer, a real robot without a hardware
            emergency stop.
        SpecMismatch: the robot does not supply what is observed, or the store has another spec.
    """
    policy = None if config.checkpoint is None else _load(config.checkpoint)
    task = Task.from_dict(config.task) if config.task else policy.provenance.task if policy else None
    path = config.store
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        device = stack.enter_context(device or make_device(config.device))
        rig = stack.enter_context(_rig(config, policy, task, path, device))
        driver = Driver(rig, device, config, policy, task, say or _show)
        if config.view:
            driver.view = stack.enter_context(View(config.view_port))
            driver.say(f"{config.view}: {driver.view.url}\n")
        if device.help:
            driver.say(device.help + "\n")
        done: list[Driven] = []
        taken = set(rig.writer.store.seeds.tolist())
        seeds = (seed for seed in count(BLOCKS["collect"] + config.offset) if seed not in taken)
        while len(rig.writer.store) < config.episodes and not driver.quitting:
            kept = driver.run(next(seeds))
            if kept is not None:
                done.append(kept)
        return done


class Driver:
    """Episodes on one rig: who acts, and when an episode ends."""

    def __init__(
        self,
        rig: Rig,
        device: Device,
        config: TeleoperateConfig,
        policy: Policy | None,
        task: Task | None,
        say: Callable[[str], None],
    ) -> None:
        self.rig, self.device, self.config, self.say = rig, device, config, say
        self.instruction = task.instruction if task else ""
        steered = rig.spec if config.robot is None else with_references(rig.spec, config.robot)
        self.human = Human(steered, config.human)
        self.actor, self._replan = None, 0
        if policy is not None:
            self.actor = PolicyActor(policy, policy.pred_horizon - policy.obs_horizon + 1)
            self._replan = policy.action_horizon
        self._longest = round(config.seconds * rig.spec.control_hz)
        self._patience = max(1, round(config.release_s * rig.spec.control_hz))
        self.quitting = False
        self.view: View | None = None

    def run(self, seed: int) -> Driven | None:
        """One episode; None if it was thrown away.

        Raises:
            RobotError: the robot could not be armed.
            DataError: the recording could not be written; the robot has been stopped.
        """
        try:
            return self._run(seed)
        except BaseException:
            self.rig.finish()
            raise

    def _run(self, seed: int) -> Driven | None:
        rig, writer = self.rig, self.rig.writer
        writer.discard()
        observation, last = rig.reset(seed), None
        by_hand, rest, left = self.actor is None, 0, 0
        if by_hand:
            self.human.begin(observation)
        steps = by_person = 0
        succeeded_at: int | None = None
        stopped, keep, said = "", True, 0.0
        while steps < self._longest:
            motion = self.device.read()
            if motion.event in ("done", "discard", "quit"):
                keep, self.quitting = motion.event == "done", motion.event == "quit"
                break
            rest = 0 if motion.active else rest + 1
            if self.actor is not None:
                if motion.active and not by_hand:
                    by_hand = True
                    self.human.begin(observation, last)
                elif by_hand and (rest >= self._patience or motion.event == "hand_back"):
                    by_hand, left = False, 0
            if by_hand:
                last = self.human.act(motion, observation)
                rig.submit(np.repeat(last[None], LOOK_AHEAD, axis=0), time.monotonic_ns())
                by_person += 1
            elif left == 0:
                rows = self._ask(seed, steps)
                left = self._replan
            if not by_hand:
                last, left = rows[self._replan - left], left - 1
            seen = rig.step(takeover=by_hand)
            observation, steps = seen.observation, steps + 1
            if time.monotonic() - said > _STATUS_S:
                said = time.monotonic()
                self.say(self._status(seed, steps, by_hand, seen.success))
                picture = self.rig.picture(self.config.view) if self.view else None
                if self.view is not None and picture is not None:
                    self.view.show(picture)
            if seen.stopped:
                stopped = seen.stopped
                break
            if seen.success and succeeded_at is None:
                succeeded_at = steps
            if succeeded_at is not None and steps - succeeded_at >= self.config.success_hold:
                break
        rig.finish()
        if not keep or not len(writer):
            writer.discard()
            self.say(f"episode {seed}: thrown away\n")
            return None
        word = rig.judge(seed)
        success = succeeded_at is not None if word is None else word
        writer.commit(seed=seed, success=success, instruction=self.instruction)
        outcome = "succeeded" if success else f"stopped: {stopped}" if stopped else "did not succeed"
        self.say(f"episode {seed}: {outcome}, {steps} steps, {by_person} by a person\n")
        return Driven(seed, steps, by_person, success, stopped)

    def _ask(self, seed: int, steps: int) -> np.ndarray:
        """A new chunk of the policy, handed over."""
        assert self.actor is not None
        history, t_obs = self.rig.history(self.actor.obs_horizon)
        rows = self.actor.act(LaneView(history, np.array([seed]), np.array([steps]), self.instruction))[0]
        self.rig.submit(rows, t_obs)
        return rows

    def _status(self, seed: int, steps: int, by_hand: bool, success: bool) -> str:
        who = "person" if by_hand else "policy"
        grip = "closed" if self.human.closed else "open"
        return f"episode {seed} | {steps / self.rig.spec.control_hz:5.1f} s | {who} | gripper {grip}" + (
            " | success" if success else ""
        )


@contextlib.contextmanager
def _rig(
    config: TeleoperateConfig, policy: Policy | None, task: Task | None, path: Path, device: Device
) -> Iterator[Rig]:
    if config.robot is None:
        if task is None:
            raise ConfigError(f"{config.checkpoint} has no task: give task=... or robot=...")
        environment = EnvRig(task, path)
        try:
            if policy is not None:
                policy.spec.require(environment.spec)
            yield environment
        finally:
            environment.close()
        return
    known = _known(policy, task)
    cameras = config.session if known is None else with_cameras(config.robot, config.session, known)
    if config.view and config.robot.simulator and config.view not in cameras.cameras:
        cameras = replace(cameras, film=config.view)
    with (
        run_directory() as directory,
        Session(config.robot, directory, cameras, ask=device.ask) as session,
    ):
        yield RobotRig(session, known or _derived(config, session), path, task=task)


def _known(policy: Policy | None, task: Task | None) -> Spec | None:
    """The policy's spec, or that of the task's environment."""
    if policy is not None or task is None:
        return None if policy is None else policy.spec
    env = make_env(task)
    spec = env.robot_spec
    env.close()
    return spec


def _derived(config: TeleoperateConfig, session: Session) -> Spec:
    """What the robot's yaml says; streams tell their sizes."""
    wanted = {
        part.split(".")[0]
        for parts in session.robot.observations.values()
        for part in parts
        if part.endswith((".image", ".value"))
    }
    deadline = time.monotonic() + _STREAMS_S
    while not wanted <= set(session.link.streams()) and time.monotonic() < deadline:
        session.link.beat()
        time.sleep(0.01)
    samples = {name: session.link.stream(name)[-1].value for name in session.link.streams()}
    return derive_spec(session.robot, config.control_hz, samples)


def _load(path: str) -> Policy:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the other cores are for control
    from robopolicy.learning.checkpoint import load

    return load(path)


def _show(line: str) -> None:
    """One line that is written over, or lines of their own where nobody watches."""
    if line.endswith("\n"):
        print("\r\x1b[K" * sys.stdout.isatty() + line, end="", flush=True)
    elif sys.stdout.isatty():
        print("\r\x1b[K" + line[:160], end="", flush=True)
