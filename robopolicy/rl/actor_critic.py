"""Off-policy and offline actor-critic learning with four slots; the published methods are presets of them.

| slot        | values                                        |
|-------------|-----------------------------------------------|
| target      | min, mean, first, quantile, subset_min        |
| loss        | mse, huber                                    |
| objective   | soft, deterministic, awr, weighted_mse        |
| constraint  | none, cloning, conservative, calibrated       |

Actions are in (-1, 1). Everything random comes from the generator that is given.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from robopolicy.errors import ConfigError, unknown
from robopolicy.networks.critic import CriticEnsemble, SquashedGaussian
from robopolicy.registry import parse
from robopolicy.rl import losses

Aggregation = Literal["min", "mean", "first", "quantile", "subset_min"]


@dataclass(frozen=True, kw_only=True)
class ActorCriticConfig:
    """The defaults are SAC's (Haarnoja et al. 2018)."""

    hidden: tuple[int, ...] = (256, 256)
    layer_norm: bool = False
    critics: int = 2
    target: Aggregation = "min"
    """How the ensemble becomes one value in targets."""
    subset: int = 2
    """Members that subset_min looks at."""
    quantile: float = 0.25
    loss: Literal["mse", "huber"] = "mse"
    huber_delta: float = 1.0
    bootstrap: Literal["actor", "expectile"] = "actor"
    """Value of the next state: of the actor's action there, or a network fitted by expectile regression."""
    expectile: float = 0.7
    next_actions: int = 1
    """Actions tried at the next state; the best one counts."""
    entropy_backup: bool = True
    """The soft objective's targets count the entropy to come."""
    objective: Literal["soft", "deterministic", "awr", "weighted_mse"] = "soft"
    actor_value: Aggregation = "min"
    """How the ensemble becomes the value that the actor maximises."""
    beta: float = 3.0
    """Inverse temperature of advantage weights."""
    target_entropy: float | None = None
    """Of actions in (-1, 1), in nats; -Da when not given."""
    initial_temperature: float = 1.0
    target_noise: float = 0.2
    """The deterministic objective's targets disturb the next action by this, clipped at 2.5 times as much."""
    actor_every: int = 1
    """Critic updates for each of the actor."""
    constraint: Literal["none", "cloning", "conservative", "calibrated"] = "none"
    constraint_weight: float = 0.0
    constraint_actions: int = 10
    learning_rate: float = 3e-4
    tau: float = 0.005
    batch_size: int = 256

    def __post_init__(self) -> None:
        if min(self.critics, self.next_actions, self.actor_every, self.batch_size) < 1 or not self.hidden:
            raise ConfigError(
                "actor_critic needs a hidden layer and critics, next_actions, actor_every, batch_size >= 1."
            )
        if not 1 <= self.subset <= self.critics and "subset_min" in (self.target, self.actor_value):
            raise ConfigError(f"subset_min looks at subset={self.subset} of critics={self.critics} members.")
        if not (0 < self.tau <= 1 and 0 < self.expectile < 1 and 0 <= self.quantile <= 1):
            raise ConfigError(
                f"actor_critic needs 0 < tau <= 1, 0 < expectile < 1 and 0 <= quantile <= 1; got {self.tau}, "
                f"{self.expectile}, {self.quantile}."
            )
        if self.objective in ("awr", "weighted_mse") and self.bootstrap != "expectile":
            raise ConfigError(
                f"objective={self.objective} weighs by advantage, which needs bootstrap=expectile."
            )
        if self.initial_temperature <= 0 or self.learning_rate <= 0:
            raise ConfigError("actor_critic needs initial_temperature > 0 and learning_rate > 0.")


PRESETS: dict[str, dict[str, Any]] = {
    "sac": {},
    "rlpd": {
        "layer_norm": True,
        "critics": 10,
        "target": "subset_min",
        "actor_value": "mean",
        "entropy_backup": False,
    },
    "iql": {"bootstrap": "expectile", "objective": "awr"},
    "riql": {
        "critics": 5,
        "target": "quantile",
        "loss": "huber",
        "bootstrap": "expectile",
        "objective": "weighted_mse",
    },
    "td3_bc": {
        "objective": "deterministic",
        "actor_value": "first",
        "actor_every": 2,
        "constraint": "cloning",
        "constraint_weight": 0.4,  # 1 / alpha for the published alpha = 2.5
    },
    "cal_ql": {
        "next_actions": 10,
        "entropy_backup": False,
        "constraint": "calibrated",
        "constraint_weight": 5.0,
    },
}


def learner_config(values: Mapping[str, Any]) -> ActorCriticConfig:
    """A preset, ``{"preset": "rlpd"}``, with whatever else is given changed in it."""
    changes = dict(values)
    name = changes.pop("preset", "sac")
    if name not in PRESETS:
        raise ConfigError(unknown("preset", name, PRESETS))
    return parse(ActorCriticConfig, {**PRESETS[name], **changes}, f"learner={name}")


@dataclass(frozen=True, kw_only=True)
class Transitions:
    """B transitions, each a step or a chunk of steps."""

    state: Tensor
    """`[B, Ds]`."""
    action: Tensor
    """`[B, Da]` in (-1, 1)."""
    reward: Tensor
    """`[B]`, discounted inside a chunk."""
    discount: Tensor
    """`[B]`: gamma^steps, 0 where the episode terminated (not where it was truncated)."""
    next_state: Tensor
    returns: Tensor | None = None
    """`[B]`, discounted return from here in the data; for the calibrated constraint."""


class ActorCritic(nn.Module):
    """Critics with slow copies, an actor, and what their preset needs besides.

    Args:
        seed: of the initial weights.
        actor: settings of the `SquashedGaussian` beside size and layers.
    """

    def __init__(
        self,
        config: ActorCriticConfig,
        state_size: int,
        action_size: int,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        actor: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.config, self.action_size = config, action_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor = SquashedGaussian(
                state_size, action_size, config.hidden, layer_norm=config.layer_norm, **(actor or {})
            )
            self.critic = CriticEnsemble(
                config.critics, state_size + action_size, config.hidden, layer_norm=config.layer_norm
            )
            self.value = CriticEnsemble(1, state_size, config.hidden, layer_norm=config.layer_norm)
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.slow_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.log_temperature = nn.Parameter(torch.tensor(config.initial_temperature).log())
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.to(device)
        self.target_entropy = -action_size if config.target_entropy is None else config.target_entropy
        self.optimizers = {
            "actor": adam(self.actor, config.learning_rate),
            "critic": adam(self.critic, config.learning_rate),
            "value": adam(self.value, config.learning_rate),
            "temperature": torch.optim.Adam([self.log_temperature], config.learning_rate),
        }

    updates: Tensor

    @torch.no_grad()
    def act(self, state: Tensor, generator: torch.Generator | None) -> Tensor:
        """Actions `[B, Da]`: drawn, or the actor's mean without a generator."""
        if generator is None:
            mean: Tensor = self.actor(state)[0].tanh()
            return mean
        return self._draw(state, generator)[0]

    def update(self, batch: Transitions, generator: torch.Generator) -> dict[str, Tensor]:
        """One update of everything; returns what to log, detached."""
        logs = {}
        if self.config.bootstrap == "expectile":
            logs["value_loss"] = self.update_value(batch, generator)
        logs |= self.update_critic(batch, self.targets(batch, generator), generator)
        self.updates += 1
        if int(self.updates) % self.config.actor_every == 0:
            logs |= self.update_actor(batch, generator)
        return logs

    @torch.no_grad()
    def targets(self, batch: Transitions, generator: torch.Generator) -> Tensor:
        """``reward + discount * value of the next state``, `[B]`."""
        return batch.reward + batch.discount * self.next_value(batch.next_state, generator)

    @torch.no_grad()
    def next_value(self, state: Tensor, generator: torch.Generator) -> Tensor:
        """Value `[B]` of states, as the targets see it."""
        config = self.config
        if config.bootstrap == "expectile":
            value: Tensor = self.value(state)[0]
            return value
        tried = state.repeat(config.next_actions, 1)
        if config.objective == "deterministic":
            spread = config.target_noise
            noise = spread * self._noise(tried, generator)
            action = self.slow_actor(tried)[0].tanh() + noise.clamp(-2.5 * spread, 2.5 * spread)
            values = self.aggregate(self.slow_critic(tried, action.clamp(-1, 1)), config.target, generator)
        else:
            action, log_prob = self._draw(tried, generator)
            values = self.aggregate(self.slow_critic(tried, action), config.target, generator)
            if config.entropy_backup:
                values = values - self.log_temperature.exp() * log_prob
        return values.view(config.next_actions, -1).amax(0)

    def update_critic(
        self, batch: Transitions, targets: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Regress the critics on targets `[B]` (or each member on its own, `[E, B]`); move the slow copy."""
        values = self.critic(batch.state, batch.action)
        loss = losses.TD_LOSSES[self.config.loss](targets - values, self.config.huber_delta).mean(1).sum()
        if self.config.constraint in ("conservative", "calibrated"):
            loss = loss + self.config.constraint_weight * self._conservative(batch, values, generator)
        step(self.optimizers["critic"], loss)
        track(self.slow_critic, self.critic, self.config.tau)
        return {"critic_loss": loss.detach(), "q": values.detach().mean()}

    def update_value(self, batch: Transitions, generator: torch.Generator) -> Tensor:
        """Fit V to an upper expectile of the critics' values of the data's actions (IQL)."""
        loss = losses.expectile(self._advantage(batch, generator), self.config.expectile).mean()
        step(self.optimizers["value"], loss)
        return loss.detach()

    def update_actor(self, batch: Transitions, generator: torch.Generator) -> dict[str, Tensor]:
        """Improve the actor; with the soft objective also adapt the temperature."""
        loss, log_prob = self.actor_loss(batch, generator)
        step(self.optimizers["actor"], loss, list(self.actor.parameters()))
        logs = {"actor_loss": loss.detach()}
        if log_prob is not None:
            surplus = -(log_prob.detach().mean() + self.target_entropy)
            step(self.optimizers["temperature"], self.log_temperature * surplus)
            logs |= {"entropy": -log_prob.detach().mean(), "temperature": self.log_temperature.detach().exp()}
        if self.config.objective == "deterministic":
            track(self.slow_actor, self.actor, self.config.tau)
        return logs

    def actor_loss(self, batch: Transitions, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """What the actor minimises, and the log-density `[B]` of the actions drawn for it, if any were."""
        config = self.config
        log_prob: Tensor | None = None
        if config.objective == "soft":
            action, log_prob = self._draw(batch.state, generator)
            value = self.aggregate(self.critic(batch.state, action), config.actor_value, generator)
            loss = (self.log_temperature.detach().exp() * log_prob - value).mean()
        elif config.objective == "deterministic":
            action = self.actor(batch.state)[0].tanh()
            value = self.aggregate(self.critic(batch.state, action), config.actor_value, generator)
            loss = -(value / value.detach().abs().mean()).mean()
        else:
            weights = losses.advantage_weights(self._advantage(batch, generator).detach(), config.beta)
            action = self.actor(batch.state)[0].tanh()
            if config.objective == "awr":
                loss = -(weights * self.actor.log_prob(batch.state, batch.action)).mean()
            else:
                loss = (weights * (action - batch.action).square().sum(-1)).mean()
        if config.constraint == "cloning":
            loss = loss + config.constraint_weight * (action - batch.action).square().mean()
        return loss, log_prob

    def aggregate(self, values: Tensor, how: Aggregation, generator: torch.Generator) -> Tensor:
        """The slot's function on `[E, B]`."""
        if how == "min":
            return losses.smallest(values)
        if how == "mean":
            return losses.mean(values)
        if how == "first":
            return losses.first(values)
        if how == "quantile":
            return losses.quantile(values, self.config.quantile)
        return losses.subset_min(values, self.config.subset, generator)

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Weights and optimisers, by name."""
        found = {f"{prefix}.{name}": value for name, value in self.state_dict().items()}
        for name, optimizer in self.optimizers.items():
            found |= optimizer_tensors(optimizer, f"{prefix}.optimizer.{name}")
        return found

    def load_tensors(self, tensors: Mapping[str, Tensor], prefix: str) -> None:
        """Read back what `tensors` gave."""
        self.load_state_dict({name: tensors[f"{prefix}.{name}"] for name in self.state_dict()})
        for name, optimizer in self.optimizers.items():
            load_optimizer(optimizer, tensors, f"{prefix}.optimizer.{name}")

    def _draw(self, state: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        drawn: tuple[Tensor, Tensor] = self.actor.sample(state, self._noise(state, generator))
        return drawn

    def _noise(self, state: Tensor, generator: torch.Generator) -> Tensor:
        shape = (len(state), self.action_size)
        return torch.randn(shape, generator=generator, device=state.device)

    def _advantage(self, batch: Transitions, generator: torch.Generator) -> Tensor:
        """Slow critics' value of the data's action minus V `[B]`; its gradient reaches V alone."""
        values = self.slow_critic(batch.state, batch.action)
        advantage: Tensor = self.aggregate(values, self.config.target, generator) - self.value(batch.state)[0]
        return advantage

    def _conservative(self, batch: Transitions, given: Tensor, generator: torch.Generator) -> Tensor:
        if self.config.constraint == "calibrated" and batch.returns is None:
            raise ConfigError("constraint=calibrated needs the data's returns in every batch.")
        count, size = self.config.constraint_actions, len(batch.state)
        states = batch.state.repeat(count, 1)
        uniform = torch.rand((len(states), self.action_size), generator=generator, device=states.device)
        with torch.no_grad():
            here, log_here = self._draw(states, generator)
            there, log_there = self._draw(batch.next_state.repeat(count, 1), generator)
        actions = torch.cat([2 * uniform - 1, here, there])
        values = self.critic(states.repeat(3, 1), actions).view(-1, 3 * count, size)
        returns = batch.returns if self.config.constraint == "calibrated" else None
        log_prob = torch.cat([log_here, log_there]).view(2 * count, size)
        gap = losses.conservative(
            values[:, :count], values[:, count:], log_prob, given, self.action_size, returns
        )
        return gap.mean(1).sum()


def adam(module: nn.Module, learning_rate: float) -> torch.optim.Adam:
    """Adam in its fused form where the device has one."""
    parameters = list(module.parameters())
    return torch.optim.Adam(parameters, learning_rate, fused=parameters[0].device.type in ("cpu", "cuda"))


def step(optimizer: torch.optim.Optimizer, loss: Tensor, inputs: list[nn.Parameter] | None = None) -> None:
    """One gradient step; with `inputs` the gradient is formed for those alone."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward(inputs=inputs)
    optimizer.step()


@torch.no_grad()
def track(slow: nn.Module, module: nn.Module, tau: float) -> None:
    """slow += tau * (module - slow)."""
    torch._foreach_lerp_(list(slow.parameters()), list(module.parameters()), tau)


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """The state of every parameter, by its number."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        f"{prefix}.{index}.{key}": torch.as_tensor(value)
        for index, parameter in enumerate(parameters)
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Read back what `optimizer_tensors` gave."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, parameter in enumerate(parameters):
        start = f"{prefix}.{index}."
        found = {key[len(start) :]: value for key, value in tensors.items() if key.startswith(start)}
        optimizer.state[parameter] = {
            key: value.clone() if key == "step" else value.to(parameter.device).clone()
            for key, value in found.items()
        }
