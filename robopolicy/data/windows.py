"""Windows of episodes, drawn as one gather a key.

The window at time t holds observations t-(To-1) .. t and actions t-(To-1) .. t-(To-1)+Tp-1. There is one for
every t of an episode. Before the episode its first row is held; after it the padding rule of the action holds.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError, DataError, unknown
from robopolicy.seeding import rng
from robopolicy.spec import ActionSpec

Padding = Literal["auto", "hold", "zero", "mask"]
Cache = Literal["auto", "device", "memmap"]
PADDINGS, CACHES = ("auto", "hold", "zero", "mask"), ("auto", "device", "memmap")
DEVICE_BUDGET = 4 * 2**30


@dataclass(frozen=True)
class Batch:
    """B windows in the robot's units."""

    observation: dict[str, Tensor]
    """`[B, To, ...]`."""
    action: Tensor
    """`[B, Tp, Da]`."""
    mask: Tensor | None = None
    """bool `[B, Tp]`: which actions count; None if all do."""
    episode: Tensor | None = None
    """Index of each window's episode in the store, `[B]`."""

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        moved = {key: value.to(device) for key, value in self.observation.items()}
        rest = {
            f.name: None if (value := getattr(self, f.name)) is None else value.to(device)
            for f in dataclasses.fields(self)
            if f.name != "observation"
        }
        return Batch(observation=moved, **rest)


class Windows:
    """All windows of some episodes of a store.

    Args:
        obs_keys: observations to include.
        episodes: indices into the store; all by default.
        padding: actions after the end repeat the last one ("hold", right for absolute targets), are zero with
            grippers held ("zero", right for deltas), or do not count ("mask"). "auto" asks the spec.
        cache: "device" keeps everything as tensors there, "memmap" as files of raw arrays; "auto" takes the
            device for up to `budget` bytes.

    Raises:
        ConfigError: unknown key, rule or horizons that do not fit.
        DataError: no episode chosen.
    """

    def __init__(
        self,
        store: EpisodeStore,
        *,
        obs_keys: Sequence[str],
        obs_horizon: int,
        pred_horizon: int,
        action_horizon: int,
        episodes: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
        padding: Padding = "auto",
        cache: Cache = "auto",
        cache_directory: str | Path | None = None,
        budget: int = DEVICE_BUDGET,
    ) -> None:
        if pred_horizon < obs_horizon - 1 + action_horizon:
            raise ConfigError(
                f"pred_horizon {pred_horizon} is too short: obs_horizon - 1 + action_horizon = "
                f"{obs_horizon - 1 + action_horizon}."
            )
        if padding not in PADDINGS:
            raise ConfigError(unknown("padding", padding, PADDINGS))
        if cache not in CACHES:
            raise ConfigError(unknown("cache", cache, CACHES))
        for key in obs_keys:
            if key not in store.spec.observations:
                raise ConfigError(unknown("observation", key, store.spec.observations))
        chosen = list(range(len(store)) if episodes is None else episodes)
        if not chosen:
            raise DataError(f"No episode chosen from the {len(store)} of {store.where}.")
        self.spec = store.spec.select(list(obs_keys))
        self.obs_horizon, self.pred_horizon = obs_horizon, pred_horizon
        self.device = torch.device(device)
        self._rule = padding if padding != "auto" else ("hold" if self.spec.action.holds_position else "zero")
        self._zeroed = _zeroed_dimensions(self.spec.action).to(self.device)
        lengths = torch.as_tensor(store.lengths[chosen])
        last = lengths.cumsum(0) - 1
        # For every row: the first and last row of its episode, and the episode's index in the store.
        self._first = (last - lengths + 1).repeat_interleave(lengths).to(self.device)
        self._last = last.repeat_interleave(lengths).to(self.device)
        self._episode = torch.as_tensor(chosen).repeat_interleave(lengths).to(self.device)
        keys = [*obs_keys, "action"]
        size = sum(_bytes(store, key, int(lengths.sum())) for key in keys)
        self.on_device = cache == "device" or (cache == "auto" and size <= budget)
        if self.on_device:
            self._data = {k: torch.as_tensor(_rows(store, k, chosen), device=self.device) for k in keys}
        else:
            self._directory = None if cache_directory else tempfile.TemporaryDirectory(prefix="windows-")
            where = Path(cache_directory or self._directory.name)  # type: ignore[union-attr]
            self._files = {k: _memmap(store, k, chosen, int(lengths.sum()), where) for k in keys}

    def __len__(self) -> int:
        return len(self._first)

    def gather(self, index: Tensor) -> Batch:
        """The windows at `index` `[B]`, on the data's device (the CPU for memmap)."""
        index = index.to(self.device)
        first, last = self._first[index, None], self._last[index, None]
        start = index[:, None] - (self.obs_horizon - 1)
        seen = (start + torch.arange(self.obs_horizon, device=self.device)).clamp(min=first)
        wanted = start + torch.arange(self.pred_horizon, device=self.device)
        rows = wanted.clamp(min=first).minimum(last)
        observation = {key: self._take(key, seen) for key in self.spec.observations}
        action, mask = self._take("action", rows), None
        after = wanted > last
        if self._rule == "zero":
            action = action.masked_fill(after[..., None] & self._zeroed, 0.0)
        elif self._rule == "mask":
            mask = ~after & (wanted >= first)
        return Batch(observation=observation, action=action, mask=mask, episode=self._episode[index])

    def _take(self, key: str, rows: Tensor) -> Tensor:
        if self.on_device:
            return self._data[key][rows]
        return torch.from_numpy(self._files[key][rows.cpu().numpy()]).to(self.device)


def split_episodes(
    store: EpisodeStore, validation: float, seed: int, *, limit: int | None = None
) -> tuple[list[int], list[int]]:
    """Training and held-out episodes, disjoint.

    Args:
        validation: share held out, rounded; at least one training episode stays.
        limit: use only this many training episodes (the rest is not used for anything).

    Raises:
        DataError: fewer training episodes than `limit`.
    """
    count = len(store)
    order = rng(seed, "split").permutation(count).tolist()
    held_out = min(round(validation * count), count - 1)
    train = order[held_out:]
    if limit is not None:
        if not 1 <= limit <= len(train):
            raise DataError(
                f"{limit} training episodes asked for; {store.where} has {len(train)} of {count}."
            )
        train = train[:limit]
    return sorted(train), sorted(order[:held_out])


def _zeroed_dimensions(action: ActionSpec) -> Tensor:
    zeroed = torch.ones(action.size, dtype=torch.bool)
    for part, where in action.slices():
        if part.kind == "gripper":
            zeroed[where] = False
    return zeroed


def _bytes(store: EpisodeStore, key: str, rows: int) -> int:
    shape, dtype = store.shape_of(key)
    return rows * int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def _rows(store: EpisodeStore, key: str, episodes: Sequence[int]) -> np.ndarray:
    return np.concatenate([store.read(key, rows) for rows in _slices(store, episodes)])


def _slices(store: EpisodeStore, episodes: Sequence[int]) -> list[slice]:
    """Rows of these episodes, neighbours joined: reading a store costs milliseconds a call."""
    ends, lengths = store.episode_ends.tolist(), store.lengths.tolist()
    joined: list[slice] = []
    for episode in episodes:
        start = ends[episode] - lengths[episode]
        if joined and joined[-1].stop == start:
            joined[-1] = slice(joined[-1].start, ends[episode])
        else:
            joined.append(slice(start, ends[episode]))
    return joined


def _memmap(store: EpisodeStore, key: str, episodes: Sequence[int], rows: int, directory: Path) -> np.memmap:
    directory.mkdir(parents=True, exist_ok=True)
    shape, dtype = store.shape_of(key)
    path = directory / f"{key.replace('/', '_')}.raw"
    array = np.memmap(path, dtype=dtype, mode="w+", shape=(rows, *shape))
    written = 0
    for part in _slices(store, episodes):
        for start in range(part.start, part.stop, 4096):
            block = store.read(key, slice(start, min(start + 4096, part.stop)))
            array[written : written + len(block)] = block
            written += len(block)
    array.flush()
    return np.memmap(path, dtype=dtype, mode="r", shape=(rows, *shape))
