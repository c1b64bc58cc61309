"""Recorded actions imagined from recorded beginnings, beside what really came of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robopolicy.seeding import derive
from robopolicy.world.world import World

__all__ = ["Episode", "Replay", "replay"]

Episode = Mapping[str, np.ndarray]
"""Observations before each action `[T, ...]` and "action" `[T, Da]`."""


@dataclass(frozen=True)
class Replay:
    """N episodes side by side, T the longest."""

    imagined: Tensor
    """The frame after each action, `[N, T, *F]`."""
    real: Tensor
    """The same of the recording; its last frame, which is not recorded, repeats the one before."""
    success: Tensor
    """What the success model says of each imagined frame, `[N, T]`."""
    doubt: Tensor
    """`[N, T]`."""
    recorded: Tensor
    """Where `real` is a recorded frame, bool `[N, T]`."""


@torch.inference_mode()
def replay(
    world: World, episodes: Sequence[Episode], tasks: Sequence[int], *, anchor: int = 0, seed: int = 0
) -> Replay:
    """Imagine each episode from its first row under its own actions.

    Args:
        anchor: steps after which imagination goes on from what was recorded; 0 for never.
    """
    device, horizon, count = world.device, world.config.history, len(episodes)
    lengths = torch.tensor([len(episode["action"]) for episode in episodes])
    longest = int(lengths.max())
    real = _padded([world.frames(episode) for episode in episodes], longest)
    actions = _padded([torch.as_tensor(e["action"], device=device).float() for e in episodes], longest)
    history = real[:, :1].expand(-1, horizon, *world.frame_shape).clone()
    past = torch.full((count, horizon - 1, world.spec.action.size), torch.nan, device=device)
    task = torch.as_tensor(tasks, device=device)
    generator = torch.Generator(device).manual_seed(derive(seed, "replay"))
    frames, success, doubts = [], [], []
    for t in range(longest):
        if anchor and t % anchor == 0:
            history = real[:, [max(0, row) for row in range(t - horizon + 1, t + 1)]]
        noise = torch.randn((count, *world.noise_shape), generator=generator, device=device)
        seen = torch.cat([past, actions[:, t, None]], 1)
        made = world.imagine(history, seen, task, noise)
        sound = world.plausible(made.frame).view(-1, *[1] * len(world.frame_shape))
        frame = torch.where(sound, made.frame, history[:, -1])
        history, past = torch.cat([history[:, 1:], frame[:, None]], 1), seen[:, 1:]
        frames.append(frame)
        success.append(world.succeeded(frame, task))
        doubts.append(made.doubt)
    following = torch.cat([real[:, 1:], real[:, -1:]], 1)
    recorded = torch.arange(longest) < (lengths - 1)[:, None]
    return Replay(
        imagined=torch.stack(frames, 1),
        real=following,
        success=torch.stack(success, 1),
        doubt=torch.stack(doubts, 1),
        recorded=recorded.to(device),
    )


def _padded(rows: Sequence[Tensor], length: int) -> Tensor:
    """`[N, length, ...]`, each last row repeated."""
    return torch.stack([row[torch.arange(length).clamp_max(len(row) - 1)] for row in rows])
