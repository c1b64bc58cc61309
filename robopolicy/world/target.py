"""Where the actions so far have put what they move, for robots that add every action to a hidden target.

Meta-World's hand hangs on a point which each action moves by a centimetre, whether the hand can follow or
not. No observation tells where that point is, but how far the hand is from it is the force with which it
presses. The robot's spec says which part of an action is such (`ActionPart.adds_to`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from robopolicy.spec import Spec

__all__ = ["FAR", "TARGET", "Targets"]

TARGET = "world/target"
"""Key that holds the targets `[..., Da]` beside observations of recordings."""
FAR = 5.0
"""Usual distances beyond which no difference is seen."""


class Targets(nn.Module):
    """For each of Da actions the state that follows its sum, if one does."""

    low: Tensor
    high: Tensor
    """Within these they stay: the range of the state, `[Da]`."""
    distance: Tensor
    """The usual one between state and target, `[Da]`."""

    def __init__(self, spec: Spec, where: Mapping[str, int]) -> None:
        """`where` says with which number of D states an observation begins."""
        super().__init__()
        state, gain = torch.zeros(spec.action.size, dtype=torch.int64), torch.zeros(spec.action.size)
        for part, here in spec.action.slices():
            if part.adds_to is not None and part.adds_to in where:
                state[here], gain[here] = where[part.adds_to] + torch.arange(part.size), part.gain
        self.state, self.gain = nn.Buffer(state, persistent=False), nn.Buffer(gain, persistent=False)
        self.least = nn.Buffer(torch.tensor(spec.action.low), persistent=False)
        self.most = nn.Buffer(torch.tensor(spec.action.high), persistent=False)
        for name in ("low", "high", "distance"):
            self.register_buffer(name, torch.ones(spec.action.size))

    @torch.no_grad()
    def fit(self, states: list[Tensor], actions: list[Tensor]) -> None:
        """Ranges and distances in episodes: states `[T, D]` and actions `[T, Da]`."""
        here = self.start(torch.cat(states))
        self.low.copy_(here.amin(0))
        self.high.copy_(here.amax(0))
        there = torch.cat(self.along(states, actions))
        self.distance.copy_((there - here).square().mean(0).sqrt().clamp_min(1e-6))

    def start(self, states: Tensor) -> Tensor:
        """Targets `[..., Da]` at rest: the states `[..., D]` themselves."""
        return states[..., self.state] * (self.gain != 0)

    def follow(self, target: Tensor, action: Tensor) -> Tensor:
        """Where actions `[..., Da]` move targets `[..., Da]`."""
        bounded = torch.minimum(torch.maximum(action.nan_to_num(), self.least), self.most)
        return (target + torch.where(self.gain != 0, self.gain * bounded, 0.0)).clamp(self.low, self.high)

    def along(self, states: list[Tensor], actions: list[Tensor]) -> list[Tensor]:
        """Targets before each action of episodes `[T, Da]`, from states `[T, D]` and actions `[T, Da]`.

        All episodes go on together, a step at a time.
        """
        target, found = self.start(torch.stack([state[0] for state in states])), []
        for action in pad_sequence(actions).float():
            found.append(target)
            target = self.follow(target, action)
        rows = torch.stack(found, 1)
        return [row[: len(state)] for row, state in zip(rows, states, strict=True)]

    def distances(self, states: Tensor, target: Tensor) -> Tensor:
        """How far targets are from their states `[..., Da]`, in usual distances; 0 where there is none."""
        return ((target - self.start(states)) / self.distance).clamp(-FAR, FAR)
