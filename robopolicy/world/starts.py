"""Recorded windows that imagined episodes begin with; they lie beside a world model's weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from robopolicy.learning.checkpoint import read_tensors
from robopolicy.seeding import derive
from robopolicy.world.recordings import Recordings
from robopolicy.world.world import TASK, find_world

__all__ = ["FILE", "Starts"]

FILE = "starts.safetensors"


@dataclass(frozen=True)
class Starts:
    """N histories of H rows."""

    observation: dict[str, Tensor]
    """`[N, H, ...]`."""
    action: Tensor
    """`[N, H, Da]`; the last row is not part of the past."""
    real: Tensor
    """Rows inside the episode, bool `[N, H]`."""
    task: Tensor
    """int64 `[N]`."""
    first: Tensor
    """Whether it is the beginning of an episode, bool `[N]`."""

    @classmethod
    def of(cls, recordings: Recordings, history: int, *, most: int = 4096, seed: int = 0) -> Starts:
        """The beginnings of all episodes, and other moments up to `most` in all."""
        begin = torch.tensor(recordings.starts)
        generator = torch.Generator().manual_seed(derive(seed, "starts"))
        others = torch.randperm(len(recordings.action), generator=generator)
        others = others[~torch.isin(others, begin)][: max(0, most - len(begin))]
        rows = torch.cat([begin, others]).to(recordings.device)
        batch = recordings.ending_at(rows)
        assert batch.mask is not None
        return cls(
            observation={key: batch.observation[key][:, -history:].cpu() for key in recordings.observation},
            action=batch.action[:, -history:].cpu(),
            real=batch.mask[:, -history:].cpu(),
            task=batch.observation[TASK].cpu(),
            first=torch.arange(len(rows)) < len(begin),
        )

    def save(self, directory: Path) -> None:
        """Beside the weights."""
        tensors = {f"observation.{key}": value for key, value in self.observation.items()}
        tensors |= {"action": self.action, "real": self.real, "task": self.task, "first": self.first}
        save_file({key: value.contiguous() for key, value in tensors.items()}, directory / FILE)

    @classmethod
    def load(cls, path: str | Path) -> Starts:
        """Those of a world model's run."""
        tensors = read_tensors(find_world(path) / FILE)
        prefix = "observation."
        observation = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        names = ("action", "real", "task", "first")
        return cls(observation=observation, **{name: tensors[name] for name in names})
