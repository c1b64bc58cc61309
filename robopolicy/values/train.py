"""From recorded episodes to values: what ``scripts/train_value.py`` runs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from robopolicy.codecs import Codec, CodecConfig
from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import Batch
from robopolicy.device import choose_device, products_of
from robopolicy.errors import CheckpointError, ConfigError
from robopolicy.evaluation.ranking import spearman
from robopolicy.learning import checkpoint as ckpt
from robopolicy.learning.interrupt import interrupt_held, saved_when_interrupted
from robopolicy.learning.log import MetricsLog
from robopolicy.learning.nan_guard import refuse_broken
from robopolicy.learning.run import open_run
from robopolicy.learning.train import all_windows, choose_observations
from robopolicy.policies.actor_critic import ActorCriticPolicy, ActorCriticPolicyConfig
from robopolicy.policies.policy import Provenance, evaluating
from robopolicy.progress import progress_bar
from robopolicy.registry import parse, plain
from robopolicy.rl import actor_critic
from robopolicy.rl.actor_critic import ActorCritic
from robopolicy.rl.convention import ConventionConfig
from robopolicy.rl.presets import learner_config
from robopolicy.seeding import derive
from robopolicy.task import Task
from robopolicy.values.corruption import Corruption
from robopolicy.values.data import Transitions, split

__all__ = [
    "MAY_CHANGE",
    "SAMPLE",
    "VALIDATION_BATCH",
    "TrainValueConfig",
    "ValueConfig",
    "ValueTrainer",
    "prepare",
    "value_settings",
]

MAY_CHANGE = ("device", "cache", "steps", "threads", "wandb", "checkpoint_seconds")
VALIDATION_BATCH = 1024
SAMPLE = 4096
"""Transitions that deviations are taken of, where some are to be spoiled."""


@dataclass(frozen=True, kw_only=True)
class ValueConfig:
    """One yaml of ``configs/value``: what is valued, and how it is learned."""

    name: str
    encoder: Mapping[str, Any] = field(default_factory=lambda: {"name": "state"})
    obs_horizon: int = 1
    action_horizon: int = 8
    """H: actions that one value is of; 1 for single actions."""
    gamma: float = 0.99
    """Of one environment step."""
    n_step: int = 1
    """Chunks whose rewards are counted before a value takes over."""
    convention: ConventionConfig = field(default_factory=lambda: ConventionConfig(terminate=True))
    learner: Mapping[str, Any] = field(default_factory=lambda: {"preset": "iql"})
    """A preset of `ActorCriticConfig`, and what is changed in it."""

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1 or min(self.obs_horizon, self.action_horizon, self.n_step) < 1:
            raise ConfigError(
                "value needs 0 < gamma <= 1 and obs_horizon, action_horizon, n_step >= 1; got "
                f"{self.gamma}, {self.obs_horizon}, {self.action_horizon}, {self.n_step}."
            )
        learner = learner_config(self.learner)
        bounded = learner.floor or learner.constraint == "calibrated"
        if bounded and self.convention.reward == "env":
            raise ConfigError(
                "Returns of reward=env bound nothing, since what follows an episode is not known: floors and "
                "constraint=calibrated need convention.reward=success or cost."
            )


@dataclass(frozen=True, kw_only=True)
class TrainValueConfig:
    """The root of ``configs/train_value.yaml``."""

    value: ValueConfig
    task: Mapping[str, Any] | None = None
    data: Any = None
    """A store or a list of stores; ``data/<task>.zarr`` by default."""
    observations: tuple[str, ...] = ()
    validation: float = 0.05
    """Share of episodes held out."""
    steps: int = 20_000
    corrupt: float = 0.0
    """Share of the transitions that are spoiled (`values.corruption`), to compare ways of learning. Of those
    held out none is."""
    codec: CodecConfig = field(default_factory=lambda: CodecConfig(observation="zscore"))
    cache: Literal["auto", "device", "memmap"] = "auto"
    seed: int = 0
    name: str = "default"
    out: str | None = None
    device: str = "auto"
    threads: int = 0
    log_every: int = 500
    checkpoint_seconds: float = 300.0
    wandb: bool = False

    def __post_init__(self) -> None:
        if self.task is None and self.data is None:
            raise ConfigError("Give task=... (then data/<task>.zarr is read) or data=[one.zarr,other.zarr].")
        if min(self.steps, self.log_every) < 1 or not 0 <= self.validation < 1 or not 0 <= self.corrupt < 1:
            raise ConfigError(
                f"Need steps, log_every >= 1, 0 <= validation < 1 and 0 <= corrupt < 1; got {self.steps}, "
                f"{self.log_every}, {self.validation}, {self.corrupt}."
            )

    @property
    def stores(self) -> list[str]:
        """Where the episodes are."""
        if self.data is None:
            return [f"data/{(self.task or {})['name']}.zarr"]
        return [self.data] if isinstance(self.data, str) else list(self.data)

    @property
    def directory(self) -> Path:
        """The run's."""
        source = self.task["name"] if self.task else Path(self.stores[0].rstrip("/")).stem
        return Path(self.out or f"outputs/{source}/{self.value.name}/{self.name}/seed{self.seed}")


class ValueTrainer:
    """Everything random depends on (seed, step) alone, so resuming is exact."""

    def __init__(
        self,
        config: TrainValueConfig,
        policy: ActorCriticPolicy,
        data: Transitions,
        *,
        progress: bool = True,
    ) -> None:
        if config.threads:
            torch.set_num_threads(config.threads)
        self.config, self.policy, self.data, self.progress = config, policy, data, progress
        self.directory = config.directory
        self.learner = ActorCritic(
            policy.config.learner,
            policy.state_size,
            policy.flat_size,
            seed=derive(config.seed, "learner"),
            device=policy.device,
            encoder=policy.encoder,
        )
        policy.actor, policy.critic = self.learner.actor, self.learner.slow_critic
        policy.value = self.learner.value
        self.generator = torch.Generator(policy.device)
        train, held_out = split(data.episode, config.validation, config.seed)
        self._train = torch.as_tensor(train, device=policy.device)
        self._held_out = torch.as_tensor(held_out, device=policy.device)
        self.corruption = self._corruption() if config.corrupt else None
        self.step = 0
        if found := ckpt.steps(self.directory):
            self._restore(found[-1])

    def train(self) -> ActorCriticPolicy:
        """Run to the configured number of steps."""
        config = self.config
        log = MetricsLog(self.directory, resume_step=self.step, wandb=config.wandb, config=plain(self.config))
        saved, since, since_step = time.monotonic(), time.monotonic(), self.step
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        bar = progress_bar(
            total=config.steps, initial=self.step, desc="values", unit="step", disable=not self.progress
        )
        try:
            with saved_when_interrupted(self.save, lambda: f"step {self.step}"):
                while self.step < config.steps:
                    with interrupt_held():
                        with products_of(self.learner.config.batch_size):
                            logs = self._update()
                        self.step += 1
                    for key, value in logs.items():
                        sums[key] = sums.get(key, torch.zeros((), device=value.device)) + value
                        counts[key] = counts.get(key, 0) + 1
                    bar.update()
                    last = self.step == config.steps
                    if self.step % config.log_every == 0 or last:
                        row = {key: float(value) / counts[key] for key, value in sums.items()}
                        row["steps_per_s"] = (self.step - since_step) / (time.monotonic() - since)
                        row |= self.validate()
                        bar.set_postfix_str(f"q {row['q']:.3g}", refresh=False)
                        log.add(self.step, row)
                        sums, counts, since, since_step = {}, {}, time.monotonic(), self.step
                    if last or time.monotonic() - saved > config.checkpoint_seconds:
                        self.save()
                        saved = time.monotonic()
        finally:
            bar.close()
            log.close()
        return self.policy.eval()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """On held-out chunks: rank correlation of Q with the returns, and by how much it exceeds them."""
        if not len(self._held_out):
            return {}
        self.generator.manual_seed(derive(self.config.seed, "validation"))
        with evaluating(self.policy):
            batch = self._batch(self._held_out, VALIDATION_BATCH)
            found = self.policy.q(batch.state, batch.action)
        returns = batch.returns_for("validation")
        return {
            "validation_rank": spearman(found.cpu().numpy(), returns.cpu().numpy()),
            "validation_excess": float((found - returns).mean()),
        }

    def save(self) -> None:
        """Checkpoint now; the newest one is kept."""
        policy = self.policy
        refuse_broken(policy, self.step)
        policy.provenance = dataclasses.replace(policy.provenance, step=self.step)
        target = self.directory / "checkpoints" / f"{ckpt.STEP_PREFIX}{self.step:08d}"
        tensors = self.learner.tensors("learner")
        ckpt.save_checkpoint(
            target, policy, training=tensors, state={"step": self.step, "seed": self.config.seed}
        )
        for old in ckpt.steps(self.directory)[:-1]:
            ckpt.remove(old)

    def _update(self) -> dict[str, Tensor]:
        stream = derive(self.config.seed, f"value/{self.step}")
        self.generator.manual_seed(stream)
        torch.manual_seed(stream)  # crops of pictures
        self.policy.train()
        index = self._drawn(self._train, self.policy.config.learner.batch_size)
        batch = self._gathered(index)
        if self.corruption is not None:
            batch = self.corruption.spoil(batch, self.data.grouped(index))
        logs = self.learner.update(batch, self.generator)
        return {**logs, "reward": batch.reward.mean()}

    def _batch(self, among: Tensor, count: int) -> actor_critic.Transitions:
        return self._gathered(self._drawn(among, count))

    def _drawn(self, among: Tensor, count: int) -> Tensor:
        return among[torch.randint(len(among), (count,), generator=self.generator, device=among.device)]

    def _gathered(self, index: Tensor) -> actor_critic.Transitions:
        now, after, columns = self.data.gather(index)
        seen, policy = self._observation(now), self.policy
        with torch.no_grad():
            following = policy.state(self._observation(after))
            action = policy.encode(now.action, seen)
        return actor_critic.Transitions(
            state=policy.state(seen), action=action, next_state=following, **columns
        )

    def _corruption(self) -> Corruption:
        if next(self.policy.encoder.parameters(), None) is not None:
            raise ConfigError(
                "corrupt=... is for states: an encoder that learns would change what is spoiled."
            )
        self.generator.manual_seed(derive(self.config.seed, "corruption"))
        like = self._batch(self._train, SAMPLE)
        low, high = self.data.reward_range
        return Corruption(
            self.config.corrupt, like, many=len(self.data), low=low, high=high, seed=self.config.seed
        )

    def _observation(self, batch: Batch) -> dict[str, Tensor]:
        texts = self.policy.codec.texts
        if not texts:
            return batch.observation
        assert batch.instruction is not None
        return {**batch.observation, **dict.fromkeys(texts, self.policy.tokens(batch.instruction))}

    def _restore(self, directory: Path) -> None:
        state = ckpt.read_json(directory / "training.json")
        if state["seed"] != self.config.seed:
            raise CheckpointError(
                f"{directory} was trained with seed {state['seed']}, not {self.config.seed}."
            )
        self.policy.load_state_dict(ckpt.read_tensors(directory / "policy.safetensors"))
        self.learner.load_tensors(ckpt.read_tensors(directory / "training.safetensors"), "learner")
        self.step = int(state["step"])


def prepare(config: TrainValueConfig, *, progress: bool = True) -> ValueTrainer:
    """A trainer, new or where the run in its directory stopped."""
    stores = [EpisodeStore.open(path) for path in config.stores]
    for store in stores[1:]:
        stores[0].spec.require(store.spec, f"store {store.where}")
    settings = config.value
    spec = choose_observations(stores[0].spec, config.observations, settings.encoder)
    device = choose_device(config.device)
    data = Transitions(
        stores, spec, settings.convention, obs_horizon=settings.obs_horizon,
        action_horizon=settings.action_horizon, gamma=settings.gamma, n_step=settings.n_step,
        device=device, cache=config.cache,
    )  # fmt: skip
    torch.manual_seed(config.seed)
    codec = Codec(config.codec, spec).to(device)
    codec.fit(_all_windows(data, device))
    described = ActorCriticPolicyConfig(
        encoder=settings.encoder,
        obs_horizon=settings.obs_horizon,
        action_horizon=settings.action_horizon,
        learner=learner_config(settings.learner),
    )
    policy = ActorCriticPolicy(described, spec=spec, codec=codec).to(device)
    task = config.task or stores[0].task
    fingerprint = "+".join(store.fingerprint() for store in stores)
    seeds = [int(seed) for store in stores for seed in store.seeds if seed >= 0]
    policy.provenance = Provenance(
        task=Task.from_dict(task) if task else None,
        used_seeds=tuple(dict.fromkeys(seeds)),
        fingerprint=fingerprint,
        config=plain(config),
    )
    open_run(config.directory, {**plain(config), "data_fingerprint": fingerprint}, ignore=MAY_CHANGE)
    return ValueTrainer(config, policy, data, progress=progress)


def value_settings(policy: ActorCriticPolicy) -> ValueConfig:
    """The settings that values were learned with: their discount and their rewards."""
    return parse(ValueConfig, policy.provenance.config["value"], "value")


def _all_windows(data: Transitions, device: torch.device) -> Iterator[tuple[Mapping[str, Tensor], Tensor]]:
    for windows in data.windows:
        yield from all_windows(windows, device)
