"""Instructions as vectors. Any class registered as "text_encoder" will do, a language model's included.

It has a `size`, `tokens(texts)` (texts to a tensor `[B, ...]` that batches, moves and repeats like any other
observation: word counts, token numbers or finished embeddings) and `forward(tokens)` -> `[B, size]`.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robopolicy.errors import ConfigError
from robopolicy.registry import register

__all__ = ["HashedConfig", "HashedWords"]


@dataclass(frozen=True, kw_only=True)
class HashedConfig:
    """Sizes of the table and of its vectors."""

    buckets: int = 1024
    size: int = 32

    def __post_init__(self) -> None:
        if self.buckets < 1 or self.size < 1:
            raise ConfigError(f"hashed: buckets and size must be >= 1, got {self.buckets}, {self.size}.")


@register("text_encoder", "hashed")
class HashedWords(nn.Module):
    """A learned vector for every word and pair of words, found by its hash, and averaged. Works offline."""

    def __init__(self, config: HashedConfig) -> None:
        super().__init__()
        self.config, self.size = config, config.size
        self.table = nn.Linear(config.buckets, config.size, bias=False)
        nn.init.normal_(self.table.weight)  # tokens have length 1, so features begin with variance 1

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Counts of words and pairs, scaled to length 1: `[B, buckets]` (zeros for an empty text)."""
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}  # a batch repeats few texts
        counts = torch.zeros(len(rows), self.config.buckets)
        for text, row in rows.items():
            for bucket in _buckets(text, self.config.buckets):
                counts[row, bucket] += 1
        tokens = counts / counts.norm(dim=1, keepdim=True).clamp_min(1.0)
        return tokens[[rows[text] for text in texts]]

    def forward(self, tokens: Tensor) -> Tensor:
        """`[B, buckets]` to `[B, size]`."""
        return self.table(tokens)


@functools.lru_cache(maxsize=4096)
def _buckets(text: str, count: int) -> tuple[int, ...]:
    words = re.findall(r"\w+", text.lower())
    units = [*words, *(" ".join(pair) for pair in itertools.pairwise(words))]
    hashes = (hashlib.blake2b(unit.encode(), digest_size=8).digest() for unit in units)
    return tuple(int.from_bytes(digest, "little") % count for digest in hashes)
