"""Rows of chosen episodes, read once and in order, and what they look like in numbers. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from robopolicy.data.store import EpisodeStore
from robopolicy.data.validation import check_finite
from robopolicy.errors import DataError

__all__ = ["BLOCK_BYTES", "Stats", "blocks", "choose_episodes", "statistics"]

BLOCK_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Per-dimension statistics of one key, float64, each of the shape of a row."""

    min: np.ndarray
    max: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    q01: np.ndarray
    q99: np.ndarray


def choose_episodes(store: EpisodeStore, episodes: Sequence[int] | None) -> np.ndarray:
    """Sorted episode numbers, int64; all of them for None.

    Raises:
        DataError: none at all, an unknown one, or one named twice.
    """
    chosen = np.arange(len(store)) if episodes is None else np.sort(np.asarray(episodes, np.int64))
    if not len(chosen):
        raise DataError(f"{store.where}: no episodes are chosen (the store has {len(store)}).")
    if chosen[0] < 0 or chosen[-1] >= len(store):
        wrong = chosen[0] if chosen[0] < 0 else chosen[-1]
        raise DataError(f"{store.where} has {len(store)} episodes; there is no episode {wrong}.")
    if (np.diff(chosen) == 0).any():
        raise DataError(f"{store.where}: episode {chosen[:-1][np.diff(chosen) == 0][0]} is chosen twice.")
    return chosen


def blocks(store: EpisodeStore, key: str, episodes: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of sorted episodes of one key, in order, in blocks ``[n, ...]`` of some 64 MB.

    Raises:
        DataError: NaN or infinity; names episode and row.
    """
    ends, lengths = store.episode_ends, store.lengths
    chosen = np.zeros(len(store), bool)
    chosen[episodes] = True
    wanted = np.repeat(chosen, lengths)
    shape, dtype = store.shape_of(key)
    step = max(1, BLOCK_BYTES // max(1, math.prod(shape) * dtype.itemsize))
    for start in range(0, len(wanted), step):
        mask = wanted[start : start + step]
        if not mask.any():
            continue
        rows = store.read(key, slice(start, start + step))
        check_finite(key, rows, ends, store.where, offset=start)
        yield rows if mask.all() else rows[mask]


def statistics(
    store: EpisodeStore, episodes: Sequence[int] | None = None, keys: Sequence[str] | None = None
) -> dict[str, Stats]:
    """Statistics of these keys (all states and the action by default) over the chosen episodes."""
    chosen = choose_episodes(store, episodes)
    if keys is None:
        keys = [key for key, o in store.spec.observations.items() if o.kind == "state"] + ["action"]
    result = {}
    for key in keys:
        rows = np.concatenate(list(blocks(store, key, chosen))).astype(np.float64)
        q01, q99 = np.quantile(rows, [0.01, 0.99], axis=0)
        result[key] = Stats(
            min=rows.min(axis=0), max=rows.max(axis=0), mean=rows.mean(axis=0), std=rows.std(axis=0),
            q01=q01, q99=q99,
        )  # fmt: skip
    return result
