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
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from robopolicy.device import reduced
from robopolicy.errors import ConfigError
from robopolicy.networks.critic import CriticEnsemble, SquashedGaussian
from robopolicy.rl import losses
from robopolicy.rl.optimizers import adam, load_optimizer, optimizer_tensors, step, track
from robopolicy.rl.presets import ActorCriticConfig, Aggregation

__all__ = ["ANYTHING", "ActorCritic", "Transitions"]

ANYTHING = (-math.inf, math.inf)


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
    """`[B]`, discounted return from here in the data; for the calibrated constraint and the floor."""

    def returns_for(self, what: str) -> Tensor:
        """The returns, which `what` needs.

        Raises:
            ConfigError: there are none.
        """
        if self.returns is None:
            raise ConfigError(f"{what} needs the data's returns in every batch.")
        return self.returns


class ActorCritic(nn.Module):
    """Critics with slow copies, an actor, and what their preset needs besides.

    Args:
        seed: of the initial weights.
        actor: settings of the `SquashedGaussian` beside size and layers.
        encoder: makes the states of a batch, and is trained with the critics alone (as in DrQ).
        value_range: what a return can be. Targets stay within (as in HER, Andrychowicz et al. 2017), or what
            the actor finds to be overestimated feeds on itself. Targets that count entropy are not returns.
            Critics begin at the least: where nothing ever succeeds a value comes down from 0 by one reward a
            target, over 1 / ((1 - discount) tau) updates, and all the while the actor is drawn there.
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
        encoder: nn.Module | None = None,
        value_range: tuple[float, float] = ANYTHING,
    ) -> None:
        super().__init__()
        self.config, self.action_size = config, action_size
        counts_entropy = config.objective == "soft" and config.entropy_backup
        self.value_range = ANYTHING if counts_entropy else value_range
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor = SquashedGaussian(
                state_size, action_size, config.hidden, layer_norm=config.layer_norm, **(actor or {})
            )
            self.critic = CriticEnsemble(
                config.critics, state_size + action_size, config.hidden, layer_norm=config.layer_norm
            )
            self.value = CriticEnsemble(1, state_size, config.hidden, layer_norm=config.layer_norm)
        if math.isfinite(self.value_range[0]):
            self.critic.begin_at(self.value_range[0])
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.slow_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.log_temperature = nn.Parameter(torch.tensor(config.initial_temperature).log())
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.to(device)
        self.target_entropy = -action_size if config.target_entropy is None else config.target_entropy
        observing = self.critic if encoder is None else nn.ModuleList([self.critic, encoder])
        slow = config.actor_rate or config.learning_rate
        self.optimizers = {
            "actor": adam(self.actor, slow),
            "critic": adam(observing, config.learning_rate),
            "value": adam(self.value, config.learning_rate),
            "temperature": torch.optim.Adam([self.log_temperature], slow),
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
        seen = replace(
            batch, state=batch.state.detach()
        )  # an encoder behind it learns from the critics alone
        if self.config.bootstrap == "expectile":
            logs["value_loss"] = self.update_value(seen, generator)
        logs |= self.update_critic(batch, self.targets(seen, generator), generator)
        self.updates += 1
        if int(self.updates) % self.config.actor_every == 0:
            logs |= self.update_actor(seen, generator)
        return logs

    @torch.no_grad()
    def targets(self, batch: Transitions, generator: torch.Generator) -> Tensor:
        """``reward + discount * value of the next state``, `[B]`, and with the floor no less than returns."""
        with self.cast():
            found = batch.reward + batch.discount * self.next_value(batch.next_state, generator)
        found = found.clamp(*self.value_range)
        return torch.maximum(found, batch.returns_for("floor")) if self.config.floor else found

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
        with self.cast():
            values = self.critic(batch.state, batch.action)
            loss = losses.TD_LOSSES[self.config.loss](targets - values, self.config.huber_delta).mean(1).sum()
            if self.config.constraint in ("conservative", "calibrated"):
                loss = loss + self.config.constraint_weight * self._conservative(batch, values, generator)
        step(self.optimizers["critic"], loss)
        track(self.slow_critic, self.critic, self.config.tau)
        return {"critic_loss": loss.detach(), "q": values.detach().mean()}

    def update_value(self, batch: Transitions, generator: torch.Generator) -> Tensor:
        """Fit V to an upper expectile of the critics' values of the data's actions (IQL)."""
        with self.cast():
            loss = losses.expectile(self._advantage(batch, generator), self.config.expectile).mean()
        step(self.optimizers["value"], loss)
        return loss.detach()

    def update_actor(self, batch: Transitions, generator: torch.Generator) -> dict[str, Tensor]:
        """Improve the actor; with the soft objective also adapt the temperature."""
        with self.cast():
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

    def cast(self) -> AbstractContextManager[object]:
        """What learning's forward passes run under."""
        return reduced(self.config.precision, self.log_temperature.device)

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
        count, size = self.config.constraint_actions, len(batch.state)
        states = batch.state.repeat(count, 1)
        uniform = torch.rand((len(states), self.action_size), generator=generator, device=states.device)
        with torch.no_grad():
            here, log_here = self._draw(states, generator)
            there, log_there = self._draw(batch.next_state.repeat(count, 1), generator)
        actions = torch.cat([2 * uniform - 1, here, there])
        values = self.critic(states.repeat(3, 1), actions).view(-1, 3 * count, size)
        calibrated = self.config.constraint == "calibrated"
        returns = batch.returns_for("constraint=calibrated") if calibrated else None
        log_prob = torch.cat([log_here, log_there]).view(2 * count, size)
        gap = losses.conservative(
            values[:, :count], values[:, count:], log_prob, given, self.action_size, returns
        )
        return gap.mean(1).sum()
