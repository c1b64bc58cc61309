"""The supervised trainer, shared by everything that has a `loss`."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from robopolicy.data.windows import Batch
from robopolicy.device import products_of
from robopolicy.errors import CheckpointError, ConfigError
from robopolicy.learning import checkpoint as ckpt
from robopolicy.learning.distributed import Ranks
from robopolicy.learning.ema import EMAConfig, ema_decay, ema_update, shadow
from robopolicy.learning.interrupt import interrupt_held, saved_when_interrupted
from robopolicy.learning.log import MetricsLog
from robopolicy.learning.nan_guard import dump_and_raise, refuse_broken
from robopolicy.model import Model
from robopolicy.networks.attention import split_by_decay
from robopolicy.policies.policy import evaluating
from robopolicy.progress import progress_bar
from robopolicy.seeding import derive

__all__ = ["Check", "Examples", "Trainer", "TrainerConfig", "learning_rate"]

M = TypeVar("M", bound=Model)


class Examples(Protocol):
    """What is trained on: `Windows`, or anything else that is gathered by number."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def gather(self, index: Tensor) -> Batch:
        """Those numbered `index`, int64 `[B]`."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Counts are optimiser steps."""

    steps: int = 20_000
    batch_size: int = 256
    learning_rate: float = 3e-4
    betas: tuple[float, ...] = (0.95, 0.999)
    weight_decay: float = 1e-6
    """Of weight matrices; `split_by_decay` tells which parameters are spared."""
    warmup: int = 500
    """Steps of linear warm-up, before a cosine to zero."""
    decay: Literal["cosine", "constant"] = "cosine"
    max_gradient: float = 1.0
    """Gradients are clipped to this norm; 0 leaves them."""
    ema: EMAConfig = field(default_factory=EMAConfig)
    compile: bool = False
    threads: int = 0
    """Torch threads; 0 keeps OMP_NUM_THREADS. Two help a job that has the machine to itself."""
    log_every: int = 100
    validate_every: int = 1_000
    evaluate_every: int = 0
    """Steps between evaluations in the environment, if one is given; 0 for none."""
    best: Literal["success", "validation_loss"] | None = "success"
    """What decides whether the averaged model of an evaluation (or validation) is kept in ``<run>/best``: the
    highest success or the lowest loss so far (newer ones win draws). Nothing is where it is not measured."""
    checkpoint_seconds: float = 300.0
    keep: int = 2
    """Newest checkpoints kept."""
    wandb: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "validate_every", "keep"):
            if getattr(self, name) < 1:
                raise ConfigError(f"trainer.{name} must be >= 1, got {getattr(self, name)}.")
        if self.learning_rate <= 0 or len(self.betas) != 2:
            raise ConfigError("trainer needs learning_rate > 0 and two betas.")


def learning_rate(config: TrainerConfig, step: int) -> float:
    """Rate of the update after `step` updates: linear warm-up, then a half cosine to zero (or constant)."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.decay == "constant":
        return config.learning_rate
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class Check(Protocol):
    """What a model can do, measured while it is trained."""

    @property
    def seeds(self) -> Sequence[int]:
        """Of the episodes that it is measured on."""
        ...

    def __call__(self, model: Any, /) -> Mapping[str, float]:
        """Numbers for the log."""
        ...


class Trainer(Generic[M]):
    """Trains a model on windows; everything random depends on (seed, step) alone, so resuming is exact.

    Args:
        directory: the run's; checkpoints and logs go below it.
        evaluate: called with the averaged model every `evaluate_every` steps; its numbers are logged.

    Raises:
        ConfigError: the best is to be told by a validation that there is not.
    """

    def __init__(
        self,
        config: TrainerConfig,
        policy: M,
        windows: Examples,
        directory: Path,
        *,
        seed: int,
        validation: Examples | None = None,
        evaluate: Check | None = None,
        run_config: Mapping[str, Any] | None = None,
        progress: bool = True,
    ) -> None:
        policy.require("trainable")
        if config.best == "validation_loss" and validation is None:
            raise ConfigError("trainer.best=validation_loss needs episodes to validate on (validation=0.1).")
        self.config, self.windows, self.directory, self.seed = config, windows, Path(directory), seed
        self.validation, self.evaluate, self.run_config = validation, evaluate, dict(run_config or {})
        self.ranks = Ranks.join()
        self.progress = progress and self.ranks.rank == 0
        if config.threads:
            torch.set_num_threads(config.threads)
        self.policy, self.average = policy, shadow(policy)
        self.parameters = [p for p in policy.parameters() if p.requires_grad]
        decayed, spared = split_by_decay(policy)
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=config.learning_rate,
            betas=(config.betas[0], config.betas[1]),
            weight_decay=config.weight_decay,
            fused=policy.device.type in ("cpu", "cuda"),
        )
        self.generator = torch.Generator(policy.device)
        self.step, self.merit = 0, -math.inf
        self._seconds = {"data": 0.0, "forward_backward": 0.0, "optimizer": 0.0}
        if found := ckpt.steps(self.directory):
            self._restore(found[-1])
        if config.compile:
            policy.get_submodule("network").compile()

    def train(self) -> M:
        """Run to the configured number of steps and return the averaged model."""
        config, policy = self.config, self.policy
        log = (
            MetricsLog(self.directory, resume_step=self.step, wandb=config.wandb, config=self.run_config)
            if self.ranks.rank == 0
            else None
        )
        bar = progress_bar(
            total=config.steps, initial=self.step, desc="train", unit="step", disable=not self.progress
        )
        saved, since, since_step = time.monotonic(), time.monotonic(), self.step
        running: dict[str, Tensor] = {}
        policy.train()
        try:
            with saved_when_interrupted(self.save, lambda: f"step {self.step}"):
                while self.step < config.steps:
                    with interrupt_held():  # a checkpoint between two updates is the only exact one
                        with products_of(config.batch_size):
                            loss, logs = self._update()
                        self.step += 1
                    for key, value in {"loss": loss, **logs}.items():
                        running[key] = running.get(key, torch.zeros((), device=value.device)) + value.detach()
                    bar.update()
                    last = self.step == config.steps
                    if log and (self.step % config.log_every == 0 or last):
                        count, elapsed = self.step - since_step, time.monotonic() - since
                        row = {key: float(value) / count for key, value in running.items()}
                        row["learning_rate"] = learning_rate(config, self.step - 1)
                        row["samples_per_s"] = count * config.batch_size * self.ranks.world / elapsed
                        total = sum(self._seconds.values()) or 1.0
                        row |= {f"share_{name}": value / total for name, value in self._seconds.items()}
                        bar.set_postfix(
                            loss=f"{row['loss']:.4f}", samples_per_s=f"{row['samples_per_s']:.0f}"
                        )
                        log.add(self.step, row)
                        running, since_step, since = {}, self.step, time.monotonic()
                    if log and self.validation and (self.step % config.validate_every == 0 or last):
                        row = {"validation_loss": self._validate()}
                        log.add(self.step, row)
                        self._keep_best(row)
                    if (
                        log
                        and self.evaluate
                        and config.evaluate_every
                        and (self.step % config.evaluate_every == 0 or last)
                    ):
                        row = dict(self.evaluate(self.average))
                        log.add(self.step, row)
                        self._keep_best(row)
                    if last or time.monotonic() - saved > config.checkpoint_seconds:
                        self.save()
                        saved = time.monotonic()
        finally:
            bar.close()
            if log:
                log.close()
        return self.average

    def save(self) -> None:
        """Checkpoint now (rank 0).

        Raises:
            NotFiniteError: instead of keeping weights that are of no use.
        """
        if self.ranks.rank:
            return
        refuse_broken(self.policy, self.step)
        self.average.provenance = dataclasses.replace(self.policy.provenance, step=self.step)
        tensors = {f"model.{name}": value for name, value in self.policy.state_dict().items()}
        for index, parameter in enumerate(self.parameters):
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value)
        target = self.directory / "checkpoints" / f"{ckpt.STEP_PREFIX}{self.step:08d}"
        ckpt.save_checkpoint(
            target,
            self.average,
            training=tensors,
            state={"step": self.step, "seed": self.seed, "merit": self.merit},
        )
        for old in ckpt.steps(self.directory)[: -self.config.keep]:
            ckpt.remove(old)

    def _keep_best(self, measured: Mapping[str, float]) -> None:
        """Keep the averaged model if nothing was better; the seeds that say so count as used."""
        name = self.config.best
        if name is None or name not in measured:
            return
        merit = measured[name] if name == "success" else -measured[name]
        if merit < self.merit:
            return
        self.merit, known = merit, self.policy.provenance
        chosen_on = self.evaluate.seeds if name == "success" and self.evaluate else ()
        self.average.provenance = dataclasses.replace(
            known, step=self.step, used_seeds=tuple(dict.fromkeys((*known.used_seeds, *chosen_on)))
        )
        ckpt.save_checkpoint(self.directory / "best", self.average)

    def _update(self) -> tuple[Tensor, dict[str, Tensor]]:
        started = time.perf_counter()
        stream = derive(self.seed, f"train/{self.step}/{self.ranks.rank}")
        self.generator.manual_seed(stream)
        torch.manual_seed(stream)  # dropout
        batch = self._draw(self.windows, self.config.batch_size)
        drawn = time.perf_counter()
        loss, logs = self.policy(batch, self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.ranks.average_gradients(self.parameters)
        if self.config.max_gradient:
            logs = {
                **logs,
                "gradient": torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_gradient),
            }
        # On a GPU looking at the loss waits for it, so look rarely there.
        if (loss.device.type == "cpu" or self.step % 50 == 0) and not torch.isfinite(loss):
            dump_and_raise(self.directory, self.step, batch, stream, self.policy, self.run_config)
        computed = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        self.optimizer.step()
        ema_update(self.average, self.policy, ema_decay(self.config.ema, self.step))
        self._seconds["data"] += drawn - started
        self._seconds["forward_backward"] += computed - drawn
        self._seconds["optimizer"] += time.perf_counter() - computed
        return loss, logs

    def _draw(self, windows: Examples, count: int) -> Batch:
        device = self.generator.device
        index = torch.randint(len(windows), (count,), generator=self.generator, device=device)
        return windows.gather(index).to(device)

    @torch.no_grad()
    def _validate(self) -> float:
        assert self.validation is not None
        self.generator.manual_seed(derive(self.seed, "validation"))
        with evaluating(self.average):
            losses = [
                float(self.average(self._draw(self.validation, 256), self.generator)[0]) for _ in range(8)
            ]
        return sum(losses) / len(losses)

    def _restore(self, directory: Path) -> None:
        tensors = ckpt.read_tensors(directory / "training.safetensors")
        model = {name[6:]: value for name, value in tensors.items() if name.startswith("model.")}
        ckpt.check_tensors(self.policy.state_dict(), model, directory / "training.safetensors")
        self.policy.load_state_dict(model)
        self.average.load_state_dict(ckpt.read_tensors(directory / f"{self.policy.kind}.safetensors"))
        state = ckpt.read_json(directory / "training.json")
        if state["seed"] != self.seed:
            raise CheckpointError(f"{directory} was trained with seed {state['seed']}, not {self.seed}.")
        self.step, self.merit = int(state["step"]), float(state.get("merit", -math.inf))
        for index, parameter in enumerate(self.parameters):
            prefix = f"optimizer.{index}."
            entries = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            self.optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in entries.items()
            }
