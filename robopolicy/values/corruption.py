"""Recorded transitions that are partly wrong, to see which way of learning values stands it.

The random attack of Yang et al. 2024 (RIQL), on all four parts of the same transitions: state, action and
next state move by up to `REACH` standard deviations in every entry, the reward (and with it the return) is
any number of its range. What is spoiled stays so: a transition is as wrong every time it is drawn.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from robopolicy.rl.actor_critic import Transitions
from robopolicy.seeding import derive

__all__ = ["REACH", "Corruption"]

REACH = 1.0


class Corruption:
    """A share of the transitions of a data set, spoiled.

    Args:
        share: of the transitions.
        like: some of them, whose entries vary as those of all do.
        many: how many there are.
        low: the least that a transition pays.
        high: the most.
    """

    def __init__(
        self, share: float, like: Transitions, *, many: int, low: float, high: float, seed: int
    ) -> None:
        generator = torch.Generator(like.state.device).manual_seed(derive(seed, "corruption"))
        parts = (like.state, like.action, like.next_state)
        self._sizes, self._low, self._high = [part.shape[1] for part in parts], low, high
        self._deviation = torch.cat([part.std(0) for part in parts])
        drawn = torch.rand(many, generator=generator, device=generator.device)
        self.spoiled = drawn < share
        """Which ones, bool `[M]`."""
        self._row = self.spoiled.cumsum(0) - 1
        many, width = int(self.spoiled.sum()), 1 + sum(self._sizes)
        self._noise = torch.rand((many, width), generator=generator, device=generator.device)

    def spoil(self, batch: Transitions, index: Tensor) -> Transitions:
        """A batch with its numbers `[B]`; those that are not spoiled stay as they are, to the last bit."""
        rows = self.spoiled[index].nonzero().flatten()
        noise = self._noise[self._row[index[rows]]]
        moves = (REACH * self._deviation * (2 * noise[:, 1:] - 1)).split(self._sizes, 1)
        reward = self._low + (self._high - self._low) * noise[:, 0]
        return dataclasses.replace(
            batch,
            state=batch.state.index_add(0, rows, moves[0]),
            action=batch.action.index_add(0, rows, moves[1]).clamp(-1, 1),
            next_state=batch.next_state.index_add(0, rows, moves[2]),
            reward=batch.reward.index_copy(0, rows, reward),
            returns=None if batch.returns is None else batch.returns.index_copy(0, rows, reward),
        )
