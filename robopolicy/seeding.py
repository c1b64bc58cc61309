"""Where every random number comes from.

Episode seeds live in disjoint blocks, so that no number is ever reported on an episode that was used for
collecting, practising or choosing. Everything else is derived from a seed and a purpose by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from robopolicy.errors import ConfigError, DataError, unknown

__all__ = ["BLOCKS", "BLOCK_SIZE", "block_of", "derive", "episode_seeds", "refuse_overlap", "rng"]

BLOCK_SIZE = 1_000_000
BLOCKS: dict[str, int] = {
    "collect": 0 * BLOCK_SIZE,  # demonstrations
    "practice": 1 * BLOCK_SIZE,  # reinforcement learning
    "select": 2 * BLOCK_SIZE,  # tuning and choosing checkpoints
    "report": 3 * BLOCK_SIZE,  # the numbers that are published
}


def episode_seeds(block: str, count: int, offset: int = 0) -> list[int]:
    """`count` episode seeds of a block, from its `offset`-th on.

    Raises:
        ConfigError: unknown block, or more seeds than the block holds.
    """
    if block not in BLOCKS:
        raise ConfigError(unknown("seed block", block, BLOCKS))
    if offset < 0 or count < 0 or offset + count > BLOCK_SIZE:
        raise ConfigError(f"Seed block {block!r} holds {BLOCK_SIZE} seeds; asked for {offset}+{count}.")
    start = BLOCKS[block] + offset
    return list(range(start, start + count))


def block_of(seed: int) -> str:
    """The block an episode seed lies in ("none" for seeds from elsewhere)."""
    for block, start in BLOCKS.items():
        if start <= seed < start + BLOCK_SIZE:
            return block
    return "none"


def refuse_overlap(report: Iterable[int], used: Iterable[int], where: str) -> None:
    """Raise if an episode to be reported was already used for training.

    Raises:
        DataError: names the seeds and where they were used.
    """
    shared = sorted(set(report) & set(used))
    if shared:
        shown = ", ".join(map(str, shared[:5])) + (", ..." if len(shared) > 5 else "")
        raise DataError(
            f"{len(shared)} evaluation seeds were used in {where}: {shown}. "
            "Choose other seeds, for instance with another offset."
        )


def derive(seed: int, purpose: str) -> int:
    """A 63-bit seed for one purpose; the same inputs give the same seed everywhere and for ever."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def rng(seed: int, purpose: str) -> np.random.Generator:
    """A NumPy generator for one purpose."""
    return np.random.default_rng(derive(seed, purpose))
