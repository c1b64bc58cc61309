"""The transformer with experts for feed-forward layers (Sparse Diffusion Policy, Wang et al. 2024).

A token goes through a few of its layer's experts. Each is narrower than a dense layer by that number, so the
network computes what the dense one does while it holds several times the parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robopolicy.errors import ConfigError
from robopolicy.networks.attention import initialise
from robopolicy.networks.auxiliary import add_loss
from robopolicy.networks.transformer import (
    DecoderLayer,
    Transformer,
    TransformerConfig,
    check_sizes,
    feed_forward,
)
from robopolicy.registry import register

__all__ = ["BLOCK", "ExpertLayer", "Experts", "MoEConfig", "MoETransformer", "active_parameters", "imbalance"]

BLOCK = 16
"""Rows that a CPU's matrix product takes at once, or a multiple of them."""


@dataclass(frozen=True, kw_only=True)
class MoEConfig(TransformerConfig):
    """The transformer's sizes, and the paper's eight experts, of which two are chosen."""

    experts: int = 8
    """In every layer."""
    chosen: int = 2
    """Experts that a token goes through; each is 4 width / chosen wide."""
    balance: float = 5e-4
    """Weight of `imbalance` in the loss."""

    def __post_init__(self) -> None:
        check_sizes("moe", self.width, self.layers, self.heads, self.dropout)
        if not 1 <= self.chosen <= self.experts or 4 * self.width % self.chosen or self.balance < 0:
            raise ConfigError(
                "moe needs 1 <= chosen <= experts, chosen a divisor of 4 width, and balance >= 0; got "
                f"experts={self.experts}, chosen={self.chosen}, width={self.width}, balance={self.balance}."
            )


class Experts(nn.Module):
    """Feed-forward layers, and a router that weighs the likeliest of them for each token.

    The router reads the token and the first observation, with the instruction where the policy reads one:
    each task is routed in its own way. Weights are the router's probabilities as they are.
    """

    def __init__(self, config: MoEConfig) -> None:
        super().__init__()
        width = config.width
        self.chosen, self.balance = config.chosen, config.balance
        self.experts = nn.ModuleList(
            feed_forward(width, config.dropout, 4 * width // config.chosen) for _ in range(config.experts)
        )
        self.router = nn.Sequential(
            nn.Linear(2 * width, width // 4), nn.GELU(), nn.Linear(width // 4, config.experts)
        )

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """`[B, T, width]` and `[B, width]` to `[B, T, width]`."""
        seen = torch.cat([tokens, context[:, None].expand_as(tokens)], -1)
        chance = self.router(seen).float().softmax(-1)
        if self.training and self.balance:
            add_loss("balance", self.balance * imbalance(chance))
        weight, choice = chance.flatten(0, 1).topk(self.chosen)
        order = choice.flatten().argsort(stable=True)
        counts = choice.flatten().bincount(minlength=len(self.experts)).tolist()
        parts = tokens.flatten(0, 1)[order // self.chosen].split(counts)
        # An expert that nobody chose computes nothing, yet stays in the graph: its gradient is 0, not None.
        made = torch.cat([self._through(e, part) for e, part in zip(self.experts, parts, strict=True)])
        found = torch.empty_like(made).index_copy(0, order, made).unflatten(0, choice.shape)
        mixed = (found * weight[..., None].to(found.dtype)).sum(1)
        return mixed.unflatten(0, tokens.shape[:2])

    def _through(self, expert: nn.Module, part: Tensor) -> Tensor:
        """Filled up to full blocks where a policy acts: a row's last bit depends on how many there are."""
        filling = 0 if self.training else -len(part) % BLOCK
        made: Tensor = expert(F.pad(part, (0, 0, 0, filling)))
        return made[: len(part)]


class ExpertLayer(DecoderLayer):
    """A decoder layer that ends in experts."""

    def __init__(self, config: MoEConfig) -> None:
        super().__init__(config.width, config.heads, config.dropout)
        self.feed_forward = Experts(config)

    def think(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """Experts are told of the first observation, which every token may see."""
        result: Tensor = self.feed_forward(tokens, memory[:, 1])
        return result


@register("network", "moe")
class MoETransformer(Transformer):
    """`Transformer` with expert layers; with one expert it is the dense one."""

    def __init__(
        self, config: MoEConfig, *, action_size: int, horizon: int, obs_horizon: int, condition_size: int
    ) -> None:
        super().__init__(
            config,
            action_size=action_size,
            horizon=horizon,
            obs_horizon=obs_horizon,
            condition_size=condition_size,
        )
        self.layers = nn.ModuleList(ExpertLayer(config) for _ in range(config.layers))
        initialise(self.layers)


def imbalance(chance: Tensor) -> Tensor:
    """``log E - I(window; expert)`` of router probabilities `[B, T, E]`, a scalar from 0 to log E.

    The mutual information is largest where all experts are used alike and each window knows which it wants.
    The paper counts tasks where this counts windows: those of one task resemble each other, and neither task
    numbers nor running averages are needed.
    """
    share = chance.mean(1)
    return math.log(share.shape[-1]) - (_entropy(share.mean(0)) - _entropy(share).mean())


def active_parameters(module: nn.Module) -> int:
    """Parameters that a token meets: without the experts that are not chosen."""
    total = sum(p.numel() for p in module.parameters())
    for part in module.modules():
        if isinstance(part, Experts):
            idle = len(part.experts) - part.chosen
            total -= idle * sum(p.numel() for p in part.experts[0].parameters())
    return total


def _entropy(share: Tensor) -> Tensor:
    return -torch.special.xlogy(share, share).sum(-1)
