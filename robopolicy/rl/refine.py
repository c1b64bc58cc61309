"""From a trained policy to a refined one: what ``scripts/refine.py`` runs, whatever the method."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from robopolicy.device import choose_device
from robopolicy.env import make_env
from robopolicy.errors import ConfigError, unknown
from robopolicy.learning.run import open_run
from robopolicy.model import Model
from robopolicy.policies.policy import Policy
from robopolicy.registry import build, config_class, get, parse, plain
from robopolicy.rl.checks import CheckConfig
from robopolicy.rl.convention import ConventionConfig
from robopolicy.rl.refinement import Refinement
from robopolicy.rl.rlpd import blank_policy
from robopolicy.steering.steer import load_acting
from robopolicy.task import Task
from robopolicy.vector import LaneVectorEnv
from robopolicy.world.imagined import ImaginedConfig, ImaginedVectorEnv, require_spec
from robopolicy.world.starts import Starts
from robopolicy.world.world import load_world

__all__ = ["MAY_CHANGE", "PRACTICE_SEEDS", "CheckConfig", "RefineConfig", "Refinement", "prepare"]

MAY_CHANGE = (
    "device",
    "workers",
    "steps",
    "stop_at",
    "patience",
    "checkpoint_seconds",
    "threads",
    "wandb",
    "evaluate.workers",
    "force",
)
PRACTICE_SEEDS = 50_000
"""Practice seeds set apart for each run's seed; a longer run goes on with those of the next."""


@dataclass(frozen=True, kw_only=True)
class RefineConfig:
    """The root of ``configs/refine.yaml``."""

    checkpoint: str | None
    """The base policy; none for a method that needs none, with a task."""
    method: Mapping[str, Any]
    sampler: Mapping[str, Any] | None = None
    """Instead of the base's own, for methods that leave the base as it is."""
    task: Mapping[str, Any] | None = None
    """Instead of the checkpoint's own."""
    env: Mapping[str, Any] | None = None
    """What is practised in instead of the task's environment: `ImaginedConfig` under the name "imagined"."""
    world: str | None = None
    """Run of the world model, for env=imagined."""
    steps: int = 2_000_000
    """Environment steps at most, warm-up included; a run may be resumed with more."""
    stop_at: float | None = None
    """Stop at the first evaluation with this success rate."""
    patience: int | None = None
    """Stop after so many environment steps in which no evaluation was as good as the best."""
    lanes: int = 16
    workers: int = 2
    evaluate: CheckConfig = field(default_factory=CheckConfig)
    seed: int = 0
    name: str = "default"
    out: str | None = None
    device: str = "auto"
    threads: int = 0
    """Torch threads; 0 keeps OMP_NUM_THREADS."""
    log_every: int = 5_000
    """Environment steps between rows of the log, at least."""
    checkpoint_seconds: float = 600.0
    wandb: bool = False
    force: bool = False
    """Go on where a method advises against it."""

    def __post_init__(self) -> None:
        if min(self.steps, self.lanes, self.log_every) < 1 or self.workers < 0:
            raise ConfigError("refine needs steps, lanes, log_every >= 1 and workers >= 0.")
        if self.checkpoint is None and (self.method["name"] != "sac" or self.task is None):
            raise ConfigError(
                "refine needs checkpoint=outputs/..., the policy that is refined; only method=sac does "
                "without, with task=..."
            )
        if self.sampler is not None and (self.checkpoint is None or self.method["name"] == "dppo"):
            raise ConfigError(
                "sampler= is another sampler for a checkpoint that a method leaves as it is. method=dppo has "
                "method.denoising_steps, and without checkpoint= there is nothing to sample."
            )
        if self.stop_at is not None and not 0 < self.stop_at <= 1:
            raise ConfigError(f"refine: stop_at is a success rate in (0, 1], got {self.stop_at}.")
        if self.patience is not None and self.patience < 1:
            raise ConfigError(f"refine: patience is a number of environment steps >= 1, got {self.patience}.")
        if self.env is not None and self.env.get("name") != "imagined":
            raise ConfigError(unknown("env", str(self.env.get("name")), ["imagined"]))
        if (self.env is None) != (self.world is None):
            raise ConfigError("env=imagined and world=<its run> belong together; give both or neither.")

    def directory(self, task: Task) -> Path:
        """The run's directory."""
        method = self.method["name"] + ("_imagined" if self.env else "")
        return Path(self.out or f"outputs/{task.name}/{method}/{self.name}/seed{self.seed}")


def prepare(config: RefineConfig, *, progress: bool = True) -> Refinement:
    """A refinement, new or where the run in its directory stopped."""
    if config.threads:
        torch.set_num_threads(config.threads)
    task = Task.from_dict(config.task) if config.task else None
    base = _base(config, task)
    task = task or base.provenance.task
    if task is None:
        raise ConfigError(f"{config.checkpoint} was trained without a task: give task=...")
    method = dict(config.method)
    cls = config_class(get("method", method["name"]))
    if config.force and "force" in {f.name for f in dataclasses.fields(cls)}:
        method["force"] = True
    settings: Any = parse(cls, {k: v for k, v in method.items() if k != "name"}, f"method={method['name']}")
    torch.manual_seed(config.seed)
    envs = _practised(config, task, base, settings.convention)
    try:
        refiner = build(
            "method", method, policy=base, envs=envs, seed=config.seed, offset=config.seed * PRACTICE_SEEDS
        )
        # Only now: settings that cannot work leave no directory behind that refuses those that can.
        identity = {"base": _identity(base), "task": task.to_dict()}
        if isinstance(envs, ImaginedVectorEnv):
            identity["world_weights"] = _identity(envs.world)
        open_run(config.directory(task), {**plain(config), **identity}, ignore=MAY_CHANGE)
        return Refinement(config, refiner, task, envs, progress=progress)
    except BaseException:
        envs.close()
        raise


def _base(config: RefineConfig, task: Task | None) -> Policy:
    """The checkpoint's policy, or without one an untrained policy for the task's environment."""
    if config.checkpoint is not None:
        return load_acting(config.checkpoint, sampler=config.sampler, device=choose_device(config.device))
    assert task is not None
    env = make_env(task)
    env.close()
    return blank_policy(env.robot_spec).to(choose_device(config.device))


def _practised(config: RefineConfig, task: Task, base: Policy, convention: ConventionConfig) -> LaneVectorEnv:
    """The task's environments, or a world model's.

    Raises:
        ConfigError: a reward that an imagination does not have.
    """
    if config.env is None or config.world is None:
        return LaneVectorEnv(
            task,
            config.lanes,
            workers=config.workers,
            chunk=base.action_horizon,
            success_hold=convention.success_hold,
        )
    settings = parse(ImaginedConfig, {k: v for k, v in config.env.items() if k != "name"}, "env=imagined")
    if convention.reward == "env":
        raise ConfigError("A world model knows success, not the environment's reward: choose reward=success.")
    if convention.reward == "cost" and settings.pessimism is not None:
        raise ConfigError(
            "reward=cost pays for ending an episode, so that env.pessimism needs reward=success."
        )
    world = load_world(config.world, device=choose_device(config.device))
    require_spec(world, base.spec)
    return ImaginedVectorEnv(
        world, Starts.load(config.world), task, config.lanes, chunk=base.action_horizon, config=settings
    )


def _identity(model: Model) -> str:
    """Of weights: a run goes on only with the base, and the world model, it began with."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
