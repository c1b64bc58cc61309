"""What every policy is: a spec, a codec, and `sample`."""

from __future__ import annotations

import abc
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from robopolicy.codecs import Codec
from robopolicy.data.windows import check_horizons
from robopolicy.device import products_of
from robopolicy.errors import ConfigError, MissingCapability
from robopolicy.model import Model, Provenance
from robopolicy.networks.auxiliary import auxiliary_losses
from robopolicy.spec import Spec

if TYPE_CHECKING:
    from robopolicy.data.windows import Batch

__all__ = [
    "ChunkConfig",
    "Generation",
    "Generators",
    "Policy",
    "Provenance",
    "Request",
    "Sample",
    "blank_observation",
    "draw",
    "evaluating",
]

Generators = torch.Generator | Sequence[torch.Generator] | None


@dataclass(frozen=True)
class Sample:
    """n chunks for each of B observations. Arrays are NumPy if the observation was."""

    actions: Any
    """`[B, n, Tp, Da]` in the robot's units."""
    latent: Any
    """The noise they came from, `[B, n, Tp, Dz]`."""
    chain: Any | None = None
    """Denoising states `[K+1, B, n, Tp, Dz]`, where recorded."""
    log_prob: Any | None = None
    """`[B, n]`, from policies that have a density."""
    energy: Any | None = None
    """`[B, n]`, from policies that have an energy."""
    timing: Mapping[str, float] = field(default_factory=dict)
    """Seconds by stage."""
    calls: int = 1
    """Network evaluations behind each chunk, one after the other; the most, where chunks end themselves."""
    own_calls: Any | None = None
    """Those of each chunk, int64 `[B, n]`, where chunks end by themselves."""


@dataclass(frozen=True, kw_only=True)
class ChunkConfig:
    """What most policies' configs begin with."""

    obs_horizon: int = 2
    """To: observations seen."""
    pred_horizon: int = 16
    """Tp: actions predicted."""
    action_horizon: int = 8
    """Ta: actions executed."""

    @property
    def horizons(self) -> dict[str, int]:
        """By name, as `Policy` wants them."""
        return {name: getattr(self, name) for name in ("obs_horizon", "pred_horizon", "action_horizon")}


@dataclass(frozen=True)
class Request:
    """What `Policy.generate` makes chunks from."""

    noise: Tensor
    """The latent of each chunk, `[B, n, Tp, Dz]`."""
    generator: Generators
    """What else is random comes from here: one for the batch, or one per row."""
    deterministic: bool = False
    """The noise was given: nothing else may be random."""
    record: bool = False
    """Return the chain of denoising states."""
    executed: Tensor | None = None
    """Actions of the To-1 steps before now in the robot's units, `[B, To-1, Da]`, NaN where there were none;
    None where the caller does not know."""


@dataclass(frozen=True)
class Generation:
    """What `Policy.generate` makes, in the network's units; N = B * n rows."""

    code: Tensor
    """`[N, Tp, Dz]`."""
    chain: Tensor | None = None
    """`[K+1, N, Tp, Dz]`, where recorded: the start, then the state after each denoising step."""
    log_prob: Tensor | None = None
    """`[N]`."""
    energy: Tensor | None = None
    """`[N]`."""
    calls: int = 1
    """Network evaluations behind each row; where rows end by themselves, the most."""
    own_calls: Tensor | None = None
    """Those of each row, int64 `[N]`, where rows end by themselves."""


class Policy(Model, abc.ABC):
    """Observation history in, chunks of actions out; holds no per-episode state.

    At time t it sees observations t-(To-1) .. t and predicts actions t-(To-1) .. t-(To-1)+Tp-1; rows
    ``[To-1 : To-1+Ta]`` are meant to be executed.
    """

    kind = "policy"
    capabilities: ClassVar[frozenset[str]] = frozenset()
    """Of: trainable, noise, chain, density, energy, gradient."""

    def __init__(
        self, spec: Spec, codec: Codec, *, obs_horizon: int, pred_horizon: int, action_horizon: int
    ) -> None:
        super().__init__(spec, codec)
        check_horizons(obs_horizon, pred_horizon, action_horizon)
        self.obs_horizon, self.pred_horizon, self.action_horizon = obs_horizon, pred_horizon, action_horizon

    @property
    def noise_shape(self) -> tuple[int, int]:
        """`(Tp, Dz)`: the standard-normal latent of one chunk."""
        return self.pred_horizon, self.codec.action_size

    @abc.abstractmethod
    def generate(self, observation: dict[str, Tensor], request: Request) -> Generation:
        """Encoded chunks from raw observations `[B, To, ...]` and noise `[B, n, Tp, Dz]`."""

    @torch.no_grad()
    def sample(
        self,
        observation: Mapping[str, Any],
        *,
        n: int = 1,
        noise: Any | None = None,
        generator: Generators = None,
        record: bool = False,
        executed: Any | None = None,
    ) -> Sample:
        """Chunks for a batch of observation histories.

        Args:
            observation: NumPy arrays or tensors `[B, To, ...]` for every key of the spec; B texts for a text.
            n: chunks per observation.
            noise: latent `[B, n, Tp, Dz]`; giving it makes the result deterministic.
            generator: one for the batch, or one per row (a row then never depends on its batch).
            record: also return the chain of denoising states.
            executed: what was done in the To-1 steps before now, `[B, To-1, Da]`, NaN where nothing was; for
                policies that look at it.
        """
        if record:
            self.require("chain")
        started = time.perf_counter()
        is_numpy = not any(isinstance(value, Tensor) for value in observation.values())
        batch = self._check(observation)
        raw = self.tensors_of(observation)
        if noise is None:
            latent = draw((batch, n, *self.noise_shape), generator, self.device)
        else:
            latent = torch.as_tensor(noise, device=self.device, dtype=torch.float32)
            if latent.shape != (batch, n, *self.noise_shape):
                raise ConfigError(f"noise must be {[batch, n, *self.noise_shape]}, got {list(latent.shape)}.")
        done = None
        if executed is not None:
            done = torch.as_tensor(executed, device=self.device, dtype=torch.float32)
            if done.shape != (batch, self.obs_horizon - 1, self.spec.action.size):
                wanted = [batch, self.obs_horizon - 1, self.spec.action.size]
                raise ConfigError(f"executed must be {wanted}, got {list(done.shape)}.")
        with evaluating(self), products_of(batch * n):
            made = self.generate(raw, Request(latent, generator, noise is not None, record, done))
        rows = {k: v.repeat_interleave(n, 0) for k, v in raw.items()} if n > 1 else raw
        results = {
            "actions": self.codec.decode_action(made.code, rows).unflatten(0, (batch, n)),
            "latent": latent,
            "chain": None if made.chain is None else made.chain.unflatten(1, (batch, n)),
            "log_prob": None if made.log_prob is None else made.log_prob.view(batch, n),
            "energy": None if made.energy is None else made.energy.view(batch, n),
            "own_calls": None if made.own_calls is None else made.own_calls.view(batch, n),
        }
        if is_numpy:
            results = {k: None if v is None else v.cpu().numpy() for k, v in results.items()}
        return Sample(**results, timing={"sample": time.perf_counter() - started}, calls=made.calls)

    @property
    def planner(self) -> Policy | None:
        """Whose chunk stays while this policy corrects its actions one by one, if that is what it does.

        Such a policy executes one action of what it samples itself; who keeps an episode's chunk can have
        the planner's for as long as the planner executes it, and `adjust` each of its actions.
        """
        return None

    def adjust(self, observation: Mapping[str, Any], planned: Any) -> Tensor:
        """What to execute now, `[B, Da]`, where the planner's chunk has `planned` `[B, Da]`.

        Args:
            observation: of this step, as for `sample`.

        Raises:
            MissingCapability: this policy has no planner.
        """
        raise MissingCapability(f"{type(self).__name__} plans its own actions; there is nothing to adjust.")

    def with_sampler(self, sampler: Mapping[str, Any]) -> Self:
        """A policy with the same weights, shared with this one, and another sampler.

        Raises:
            MissingCapability: this policy samples in one way only.
        """
        raise MissingCapability(f"{type(self).__name__} has no sampler to replace; leave out sampler=.")

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, with what networks add to it; instructions become tokens among the observations first."""
        if self.codec.texts:
            assert batch.instruction is not None
            tokens = dict.fromkeys(self.codec.texts, self.tokens(batch.instruction))
            batch = replace(batch, observation={**batch.observation, **tokens})
        with auxiliary_losses() as found:
            loss, logs = self.loss(batch, generator)
        for value in found.values():
            loss = loss + value
        return loss, {**logs, **found}

    def tensors_of(self, observation: Mapping[str, Any]) -> dict[str, Tensor]:
        """A raw observation where the policy is, with tokens for its texts."""
        return {
            key: self.tokens(value) if key in self.codec.texts else torch.as_tensor(value, device=self.device)
            for key, value in observation.items()
        }

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """What stands for B texts in the observations: `[B, ...]`."""
        encoder: Any = self.get_submodule("encoder")
        return encoder.tokens(texts).to(self.device)

    def _check(self, observation: Mapping[str, Any]) -> int:
        sizes = set()
        for key, wanted in self.spec.observations.items():
            if key not in observation:
                raise ConfigError(f"Observation lacks {key!r}; given: {sorted(observation)}.")
            if wanted.kind == "text":
                sizes.add(len(observation[key]))
                continue
            shape = tuple(observation[key].shape)
            if shape[1:] != (self.obs_horizon, *wanted.shape):
                raise ConfigError(
                    f"Observation {key!r} must be [B, {self.obs_horizon}, "
                    f"{', '.join(map(str, wanted.shape))}], got {list(shape)}."
                )
            sizes.add(shape[0])
        if len(sizes) != 1:
            raise ConfigError(f"Observations differ in batch size: {sorted(sizes)}.")
        return sizes.pop()


def blank_observation(policy: Policy, batch: int = 1) -> dict[str, Any]:
    """Zeros for all that a policy observes, `[B, To, ...]`, and empty texts."""
    return {
        key: [""] * batch if o.kind == "text" else np.zeros((batch, policy.obs_horizon, *o.shape), o.dtype)
        for key, o in policy.spec.observations.items()
    }


def draw(shape: tuple[int, ...], generator: Generators, device: torch.device) -> Tensor:
    """Standard-normal `[B, ...]`; with one generator per row, row i comes from generator i alone."""
    if generator is None or isinstance(generator, torch.Generator):
        return torch.randn(shape, generator=generator, device=device)
    if len(generator) != shape[0]:
        raise ConfigError(f"Got {len(generator)} generators for {shape[0]} rows.")
    return torch.stack([torch.randn(shape[1:], generator=g, device=device) for g in generator])


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the previous mode after."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)
