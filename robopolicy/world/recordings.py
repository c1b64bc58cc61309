"""Recorded episodes of several tasks as windows that end at any of their rows, with successes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robopolicy.data.rows import blocks
from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import Batch
from robopolicy.errors import DataError
from robopolicy.task import Task
from robopolicy.world.world import SUCCESS, TASK

__all__ = ["COLUMN", "Recordings", "Source", "successes"]

COLUMN = "success"
"""Of a store, where every step's success was recorded."""


@dataclass(frozen=True)
class Source:
    """Episodes of one store."""

    store: EpisodeStore
    episodes: tuple[int, ...]
    task: int
    """Number of its task."""
    weight: int = 1
    """How often each window counts."""


class Recordings:
    """Windows of `length` rows, one that ends at every row but the first of an episode.

    Rows before an episode repeat its first one; `Batch.mask` is False there. The observations of a batch also
    hold `SUCCESS`, float32 `[B, length]` (1 success, 0 not, -1 unknown), and `TASK`, int64 `[B]`.
    """

    def __init__(
        self, sources: Sequence[Source], *, keys: Sequence[str], length: int, device: torch.device | str
    ) -> None:
        """Reads everything once.

        Raises:
            DataError: no episodes, or episodes whose success is not known.
        """
        names = ", ".join(source.store.where for source in sources) or "no store"
        sources = [source for source in sources if source.episodes]  # of one episode none is held out
        if not sources:
            raise DataError(f"No episodes of {names} are left.")
        self.device = torch.device(device)
        self.observation = {key: self._read(sources, key) for key in keys}
        self.action = self._read(sources, "action").float()
        labels, first, numbers, rows = [], [], [], []
        self.starts: list[int] = []
        offset = 0
        for source in sources:
            lengths = source.store.lengths[list(source.episodes)]
            labels += successes(source.store, source.episodes)
            begin = offset + np.cumsum(lengths) - lengths
            self.starts += begin.tolist()
            first.append(np.repeat(begin, lengths))
            numbers.append(np.full(lengths.sum(), source.task))
            inside = np.arange(offset, offset + lengths.sum())
            rows.append(np.tile(inside[inside > first[-1]], source.weight))
            offset += int(lengths.sum())
        self._label = torch.from_numpy(np.concatenate(labels)).to(self.device)
        self._first = torch.from_numpy(np.concatenate(first)).to(self.device)
        self._task = torch.from_numpy(np.concatenate(numbers)).to(self.device)
        self._rows = torch.from_numpy(np.concatenate(rows)).to(self.device)
        self._past = torch.arange(1 - length, 1, device=self.device)

    def __len__(self) -> int:
        """Windows, those of a source as often as its weight."""
        return len(self._rows)

    def gather(self, index: Tensor) -> Batch:
        """The windows `index` (int64 `[B]`)."""
        return self.ending_at(self._rows[index.to(self.device)])

    def ending_at(self, row: Tensor) -> Batch:
        """The windows whose last rows are these (int64 `[B]`)."""
        wanted = row[:, None] + self._past
        rows = torch.maximum(wanted, self._first[row, None])
        observation = {key: value[rows] for key, value in self.observation.items()}
        observation |= {SUCCESS: self._label[rows], TASK: self._task[row]}
        return Batch(observation=observation, action=self.action[rows], mask=rows == wanted)

    def cut(self, rows: Tensor) -> list[Tensor]:
        """Values of all rows `[R, ...]`, by episode."""
        return list(rows.tensor_split(self.starts[1:]))

    def _read(self, sources: Sequence[Source], key: str) -> Tensor:
        parts = [part for s in sources for part in blocks(s.store, key, np.asarray(s.episodes))]
        return torch.from_numpy(np.concatenate(parts)).to(self.device)


def successes(store: EpisodeStore, episodes: Sequence[int]) -> list[np.ndarray]:
    """For each episode, whether each row is a success: 1, 0, or -1 where that is not known.

    A column "success" says it of every step (it is then the next row's). Without one, a store says only of
    an episode that it succeeded; it then went on for the task's `success_hold` steps, which tells when. One
    cut off at the horizon does not tell: its last rows are unknown.

    Raises:
        DataError: successes were not recorded; names the store and an episode.
    """
    found, labelled = [], COLUMN in store.extra
    if store.task is None and not labelled:
        raise DataError(
            f"{store.where} does not name its task, so it does not tell when its episodes succeed. Collect "
            "with scripts/collect.py."
        )
    task = Task.from_dict(store.task) if store.task else None
    flags, lengths, ends = store.successes, store.lengths, store.episode_ends
    for index in episodes:
        label = np.zeros(lengths[index], np.float32)
        if labelled:
            label[1:] = store.read(COLUMN, slice(ends[index] - lengths[index], ends[index] - 1))
        elif flags[index] not in (0, 1) or task is None:
            raise DataError(
                f"{store.where}: episode {index} does not say whether it succeeded, so that a success model "
                "cannot learn from it. Append episodes with success=, or add a column 'success'."
            )
        elif flags[index]:
            label[max(0, lengths[index] - task.success_hold) :] = -1 if lengths[index] >= task.horizon else 1
        found.append(label)
    return found
