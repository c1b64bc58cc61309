"""DPPO's update beside its straightforward form."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from robopolicy.benchmark.learning import lift_sizes
from robopolicy.benchmark.timing import interleave, summary
from robopolicy.codecs import Codec, CodecConfig
from robopolicy.device import choose_device, products_of
from robopolicy.env import Observation, RobotEnv
from robopolicy.networks.mish import Mish
from robopolicy.policies.diffusion import DiffusionConfig, DiffusionPolicy
from robopolicy.registry import register
from robopolicy.rl.dppo import DPPO, DPPOConfig
from robopolicy.rl.proximal import Rollout
from robopolicy.task import Task
from robopolicy.vector import LaneVectorEnv

__all__ = ["EPOCHS", "LANES", "SIZES", "StillConfig", "StillEnv", "Straightforward", "refinement"]

LANES = 16
EPOCHS = 10
"""Of an iteration; one is measured."""
SIZES: dict[str, tuple[Mapping[str, Any], DPPOConfig]] = {
    "small": (
        {"name": "dppo_mlp", "width": 256},
        DPPOConfig(epochs=1, critic_warmup=0, target_kl=1e9),
    ),
    "published": (
        {"name": "dppo_mlp"},
        DPPOConfig(
            denoising_steps=20, finetuned_steps=10, chunks=38, batch_size=6080, epochs=1, critic_warmup=0,
            target_kl=1e9,
        ),
    ),
}  # fmt: skip
"""Network and method: the preset for two cores, and Can's published sizes with an eighth of its rollout."""


@dataclass(frozen=True, kw_only=True)
class StillConfig:
    """Nothing to set."""


@register("env", "still")
class StillEnv(RobotEnv):
    """Lift's sizes and no simulation: the update is what is measured."""

    def __init__(self, config: StillConfig, *, task: Task) -> None:
        self.config, self.robot_spec = config, lift_sizes()
        boxes: dict[str, spaces.Space[Any]] = {
            key: spaces.Box(-np.inf, np.inf, o.shape, np.float32)
            for key, o in self.robot_spec.observations.items()
        }
        self.observation_space = cast(spaces.Space[Any], spaces.Dict(boxes))
        self.action_space = spaces.Box(-1, 1, (self.robot_spec.action.size,), np.float32)
        self.generator = np.random.default_rng(0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Random numbers."""
        self.generator = np.random.default_rng(seed)
        return self._random(), {"success": False}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Random numbers, and success now and then."""
        success = bool(self.generator.random() < 0.1)
        return self._random(), float(success), False, False, {"success": success}

    def _random(self) -> Observation:
        return {
            key: self.generator.uniform(-1, 1, o.shape).astype(np.float32)
            for key, o in self.robot_spec.observations.items()
        }


def refinement(*, device: str, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Seconds of one epoch over a rollout, in turns, float32.

    The straightforward form is timed as torch is ("plain") and with the activation and the products of
    matrices that ours has; two parts that no form can do without are timed alone.
    """
    rows = []
    for name, (network, config) in SIZES.items():
        ours, other = _refiner(network, config, device), _refiner(network, config, device)
        plain = _with_torchs_mish(_refiner(network, config, device))
        rollout, _ = ours.practise()

        def fast(
            update: Callable[[Rollout], object], rollout: Rollout = rollout, config: DPPOConfig = config
        ) -> None:
            with products_of(config.batch_size):
                update(rollout)

        times = interleave(
            {
                "ours": functools.partial(fast, ours.update),
                "plain": functools.partial(Straightforward(plain).update, rollout),
                "straightforward": functools.partial(fast, Straightforward(other).update),
                "network": functools.partial(fast, functools.partial(_tuned_network, other)),
                "critic": functools.partial(fast, functools.partial(_critic, other)),
            },
            seconds=seconds,
            rounds=rounds,
        )
        found = {key: summary(values) for key, values in times.items()}
        rows.append(
            {
                "size": name,
                "network": network["name"],
                "parameters": sum(p.numel() for p in ours.actor.parameters()),
                "pairs": len(rollout.condition) * ours.stages,
                "batch": config.batch_size,
                **{f"{key}_ms": value for key, value in found.items()},
                "plain_ratio": found["plain"]["p50"] / found["ours"]["p50"],
                "ratio": found["straightforward"]["p50"] / found["ours"]["p50"],
            }
        )
    return rows


class Straightforward:
    """The update as one would write it down first, with the same result (but for the remainder it drops).

    Both networks see every row and one answer is thrown away; the table of discounts is made element by
    element; the value loss is taken for every pair, so K' times a chunk; old log-probabilities are computed
    again before the first epoch instead of kept from practising.
    """

    def __init__(self, refiner: DPPO) -> None:
        self.refiner = refiner

    def update(self, rollout: Rollout) -> None:
        """One epoch."""
        refiner, config = self.refiner, self.refiner.config
        stages, pairs = refiner.stages, len(rollout.condition) * refiner.stages
        device = rollout.condition.device
        with torch.no_grad():
            again = torch.arange(0, pairs, EPOCHS, device=device)  # all, once in EPOCHS epochs
            torch.cat([self._log_prob(rollout, part) for part in again.split(10_000)])
        old = rollout.log_prob.flatten()
        order = torch.randperm(pairs, device=device)
        for i in range(max(1, pairs // config.batch_size)):
            pair = order[i * config.batch_size : (i + 1) * config.batch_size]
            chunk, stage = torch.div(pair, stages, rounding_mode="floor"), pair % stages
            advantage = rollout.advantage[chunk]
            advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
            weight = torch.tensor(
                [config.denoising_discount ** (stages - s - 1) for s in stage], device=device
            )
            limit = torch.tensor([float(refiner.clip[s]) for s in stage], device=device)
            ratio = (self._log_prob(rollout, pair) - old[pair]).exp()
            paid = advantage * weight
            inside = torch.minimum(torch.maximum(ratio, 1 - limit), 1 + limit)
            loss = torch.maximum(-paid * ratio, -paid * inside).mean()
            error = refiner.critic(rollout.condition[chunk]) - rollout.returns[chunk]
            total = loss + 0.25 * error.square().mean()
            refiner.actor_optimizer.zero_grad()
            refiner.critic_optimizer.zero_grad()
            total.backward()
            refiner.actor_optimizer.step()
            refiner.critic_optimizer.step()

    def _log_prob(self, rollout: Rollout, pair: Tensor) -> Tensor:
        refiner = self.refiner
        chunk = torch.div(pair, refiner.stages, rounding_mode="floor")
        stage, condition = pair % refiner.stages, rollout.condition[chunk]
        before, after = rollout.trace[chunk, stage], rollout.trace[chunk, stage + 1]
        step = stage + refiner.first
        with torch.no_grad():
            frozen = refiner._mean(refiner.tuned.early(condition), before, step)
        tuned = refiner._mean(refiner.tuned.late(condition), before, step)
        mean = torch.where((step >= refiner.first)[:, None, None], tuned, frozen)
        return refiner._density(mean, after, stage)


def _tuned_network(refiner: DPPO, rollout: Rollout) -> None:
    """The part that no form can do without: the tuned network forward and backward on every pair."""
    stages, batch = refiner.stages, refiner.config.batch_size
    for pair in torch.arange(len(rollout.condition) * stages, device=rollout.condition.device).split(batch):
        chunk, stage = torch.div(pair, stages, rounding_mode="floor"), pair % stages
        condition = refiner.tuned.late(rollout.condition[chunk])
        mean = refiner._mean(condition, rollout.trace[chunk, stage], stage + refiner.first)
        mean.square().mean().backward()


def _critic(refiner: DPPO, rollout: Rollout) -> None:
    """The same of the critic on every chunk."""
    pairs = len(rollout.condition) * refiner.stages
    batches = max(1, round(pairs / refiner.config.batch_size))
    for chunk in torch.arange(len(rollout.condition), device=rollout.condition.device).tensor_split(batches):
        refiner.critic(rollout.condition[chunk]).square().mean().backward()


def _with_torchs_mish(refiner: DPPO) -> DPPO:
    """The same networks with torch's own activation."""
    for network in (refiner.tuned, refiner.critic):
        for module in list(network.modules()):
            for name, child in module.named_children():
                if isinstance(child, Mish):
                    setattr(module, name, nn.Mish())
    return refiner


def _refiner(network: Mapping[str, Any], config: DPPOConfig, device: str) -> DPPO:
    torch.manual_seed(0)
    spec = lift_sizes()
    settings = DiffusionConfig(obs_horizon=1, pred_horizon=4, action_horizon=4, network=network)
    codec = Codec(CodecConfig(observation="identity", action="identity"), spec)
    policy = DiffusionPolicy(settings, spec=spec, codec=codec).to(choose_device(device)).eval()
    envs = LaneVectorEnv(Task(name="still", env={"name": "still"}, horizon=300), LANES, chunk=4)
    return DPPO(config, policy=policy, envs=envs, seed=0)
