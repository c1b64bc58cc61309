"""Windows of episodes as one tensor gather for each key, where the data lives."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from robopolicy import seeding
from robopolicy.data.rows import blocks, choose_episodes
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError, unknown
from robopolicy.spec import GOAL, INSTRUCTION, TEXT

__all__ = ["CACHES", "PADDINGS", "Batch", "Cache", "Padding", "Windows", "check_horizons", "split_episodes"]

Padding = Literal["hold", "zero", "mask"]
Cache = Literal["auto", "device", "memmap"]
PADDINGS = ("hold", "zero", "mask")
CACHES = ("auto", "device", "memmap")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Windows of B moments. Images stay uint8 ``[B, To, H, W, C]``, everything else is float32."""

    observation: dict[str, Tensor]
    """`[B, To, ...]`, times t-(To-1) .. t."""
    action: Tensor
    """`[B, Tp, Da]`; row j is time t-(To-1)+j."""
    mask: Tensor | None = None
    """bool `[B, Tp]`, True inside the episode; None where padded rows count like others."""
    episode: Tensor | None = None
    """int64 `[B]`, episode number in the store."""
    instruction: list[str] | None = None
    """Given when a text observation was asked for."""

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return replace(
            self,
            observation={key: value.to(device) for key, value in self.observation.items()},
            action=self.action.to(device),
            mask=None if self.mask is None else self.mask.to(device),
            episode=None if self.episode is None else self.episode.to(device),
        )


class Windows:
    """One window for every moment t of the chosen episodes; window i is the i-th row of those episodes.

    Before an episode begins its first row is repeated. After it ends, actions follow `padding`: "hold"
    repeats the last row, "zero" is no motion (grippers hold), "mask" holds and marks the rows. The default
    is hold for absolute targets and zero for deltas and velocities (`ActionSpec.holds_position`).

    Of the To-1 actions before t a chunk holds the last `past_actions` (all by default); the first of what it
    holds stands in the rows before. So a policy learns nothing of an earlier past, and its input says nothing
    of it either.

    ``goal/<key>``, where the store has no such observation, is the last row of <key> in the episode, at every
    one of the To times: what the demonstration achieved.
    """

    def __init__(
        self,
        store: EpisodeStore,
        *,
        obs_keys: Sequence[str],
        obs_horizon: int,
        pred_horizon: int,
        action_horizon: int,
        past_actions: int | None = None,
        episodes: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
        padding: Mapping[str, Padding] | None = None,
        cache: Cache = "auto",
        directory: Path | str | None = None,
    ) -> None:
        """Reads the chosen episodes once.

        Args:
            padding: ``{"action": rule}``.
            cache: "device" keeps the episodes as tensors on `device`, "memmap" as decompressed files that
                are gathered on the CPU, "auto" decides by the memory that is free.
            directory: where memory-mapped files go (a temporary directory inside it, removed at the end).

        Raises:
            ConfigError: horizons that do not fit, an unknown key, padding or cache.
            DataError: episodes that are not there, or data that cannot be read.
        """
        check_horizons(obs_horizon, pred_horizon, action_horizon)
        if past_actions is None:
            past_actions = obs_horizon - 1
        if not 0 <= past_actions < obs_horizon:
            raise ConfigError(
                f"past_actions={past_actions} must be in [0, {obs_horizon - 1}]: obs_horizon={obs_horizon}."
            )
        observations = {INSTRUCTION: TEXT, **store.spec.observations}  # every store has instructions
        goals = {key: key.removeprefix(GOAL) for key in obs_keys if key not in observations}
        for key, base in goals.items():
            if not key.startswith(GOAL) or base not in store.spec.observations:
                raise ConfigError(f"{store.where}: " + unknown("observation", key, observations))
        if cache not in CACHES:
            raise ConfigError(unknown("cache", cache, CACHES))
        zeroed, self._masked = _padding(store, padding or {})
        chosen = choose_episodes(store, episodes)
        lengths = store.lengths[chosen]
        rows = int(lengths.sum())
        self.device = torch.device(device)
        self._goals = goals
        own = [key for key in obs_keys if key not in goals]
        self._observed = [key for key in own if observations[key].kind != "text"]
        self._instructions = store.instructions if len(self._observed) < len(own) else None
        keys = list(dict.fromkeys([*self._observed, *goals.values(), "action"]))
        kinds = {key: _stored_as(store, key) for key in keys}
        if cache == "auto":
            size = sum(rows * math.prod(shape) * dtype.itemsize for shape, dtype in kinds.values())
            cache = "device" if size <= _budget(self.device) else "memmap"
        self.cache = cache
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        home = self.device
        if cache == "memmap":
            self._directory = tempfile.TemporaryDirectory(prefix="robopolicy-", dir=directory)
            home = torch.device("cpu")
        self._data: dict[str, Tensor] = {}
        for number, (key, (shape, dtype)) in enumerate(kinds.items()):
            array: np.ndarray
            if self._directory is None:
                array = np.empty((rows, *shape), dtype)
            else:
                path = Path(self._directory.name) / f"{number}.raw"
                array = np.memmap(path, dtype, "w+", shape=(rows, *shape))
            _fill(array, store, key, chosen)
            self._data[key] = torch.from_numpy(array).to(home)
        stops = np.cumsum(lengths)
        per_row = [np.repeat(values, lengths) for values in (stops - lengths, stops - 1, chosen)]
        self._first, self._last, self._episode = (torch.from_numpy(values).to(home) for values in per_row)
        self._past = torch.arange(-(obs_horizon - 1), 1, device=home)
        chunk = torch.arange(pred_horizon, device=home) - (obs_horizon - 1)
        self._chunk = chunk.clamp_min(-past_actions)
        self._zeroed = None if zeroed is None else zeroed.to(home)

    def __len__(self) -> int:
        """Windows, one for every step of the chosen episodes."""
        return len(self._first)

    @torch.no_grad()
    def replace_rows(self, key: str, function: Callable[[Tensor], Tensor], rows: int = 256) -> None:
        """Keep ``function(rows [n, ...])`` instead of a key's data, computed once, `rows` at a time.

        So a frozen encoder's features stand for the pictures they are of.
        """
        data = self._data[key]
        made = [function(part.to(self.device)).to(data.device) for part in data.split(rows)]
        self._data[key] = torch.cat(made)

    def gather(self, index: Tensor) -> Batch:
        """The windows `index` (int64 `[B]`), on the device given at construction."""
        index = index.to(self._first.device)
        first, last = self._first[index, None], self._last[index, None]
        seen = torch.maximum(index[:, None] + self._past, first)
        wanted = index[:, None] + self._chunk
        rows = torch.minimum(torch.maximum(wanted, first), last)
        action = self._data["action"][rows]
        if self._zeroed is not None:
            action = action.masked_fill_((wanted > last)[..., None] & self._zeroed, 0.0)
        observation = {key: self._data[key][seen] for key in self._observed}
        for key, base in self._goals.items():
            observation[key] = self._data[base][last.expand_as(seen)]
        episode = self._episode[index]
        texts = self._instructions
        batch = Batch(
            observation=observation,
            action=action,
            mask=rows == wanted if self._masked else None,
            episode=episode,
            instruction=None if texts is None else [texts[i] for i in episode.tolist()],
        )
        return batch if self.cache == "device" else batch.to(self.device)


def split_episodes(
    store: EpisodeStore, val_fraction: float, seed: int, *, limit: int | None = None
) -> tuple[list[int], list[int]]:
    """Training and validation episodes, drawn by `seed`.

    Validation does not depend on `limit`, fewer training episodes are a subset of more, and episodes that
    `limit` leaves out are in neither.

    Raises:
        ConfigError: a fraction outside [0, 1), or more training episodes than there are.
    """
    if not 0 <= val_fraction < 1:
        raise ConfigError(f"val_fraction must be in [0, 1), got {val_fraction}.")
    order = seeding.rng(seed, "split").permutation(len(store))
    held_out = min(max(1, round(val_fraction * len(store))), len(store) - 1) if val_fraction else 0
    train = order[held_out:]
    if limit is not None and not 1 <= limit <= len(train):
        raise ConfigError(
            f"{limit} training episodes are asked for; {store.where} has {len(store)} episodes, "
            f"{held_out} of them held out for validation."
        )
    return sorted(train[:limit].tolist()), sorted(order[:held_out].tolist())


def check_horizons(obs_horizon: int, pred_horizon: int, action_horizon: int) -> None:
    """Raise unless the executed rows ``[To-1 : To-1+Ta]`` lie inside the prediction.

    Raises:
        ConfigError: with the numbers.
    """
    if min(obs_horizon, pred_horizon, action_horizon) < 1:
        raise ConfigError(
            f"Horizons must be at least 1, got obs_horizon={obs_horizon}, pred_horizon={pred_horizon}, "
            f"action_horizon={action_horizon}."
        )
    needed = obs_horizon - 1 + action_horizon
    if pred_horizon < needed:
        raise ConfigError(
            f"pred_horizon={pred_horizon} is too short: obs_horizon={obs_horizon} and "
            f"action_horizon={action_horizon} need at least {needed}."
        )


def _padding(store: EpisodeStore, padding: Mapping[str, Padding]) -> tuple[Tensor | None, bool]:
    """Action dimensions `[Da]` that are zero after the end (None if all hold), and whether to mask."""
    for key in padding:
        if key != "action":
            raise ConfigError("Only the action is padded after the end. " + unknown("key", key, ["action"]))
    action = store.spec.action
    rule = padding.get("action", "hold" if action.holds_position else "zero")
    if rule not in PADDINGS:
        raise ConfigError(unknown("padding", rule, PADDINGS))
    if rule != "zero":
        return None, rule == "mask"
    zeroed = torch.zeros(action.size, dtype=torch.bool)
    for part, where in action.slices():
        zeroed[where] = part.kind != "gripper"
    return zeroed, False


def _stored_as(store: EpisodeStore, key: str) -> tuple[tuple[int, ...], np.dtype]:
    shape, dtype = store.shape_of(key)
    is_image = key != "action" and store.spec.observations[key].kind == "image"
    return shape, dtype if is_image else np.dtype(np.float32)


def _fill(array: np.ndarray, store: EpisodeStore, key: str, episodes: np.ndarray) -> None:
    start = 0
    for block in blocks(store, key, episodes):
        array[start : start + len(block)] = block
        start += len(block)


def _budget(device: torch.device) -> int:
    """Bytes that data may take: half of what is free on a GPU, a quarter of free memory elsewhere."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    except (ValueError, OSError, AttributeError):  # not every system tells
        return 2 << 30
