from __future__ import annotations

import itertools

import pytest

from robopolicy.errors import ConfigError, DataError
from robopolicy.seeding import BLOCK_SIZE, BLOCKS, block_of, derive, episode_seeds, refuse_overlap


def test_blocks_are_disjoint_and_know_their_seeds() -> None:
    for a, b in itertools.combinations(BLOCKS.values(), 2):
        assert abs(a - b) >= BLOCK_SIZE
    for block in BLOCKS:
        assert {block_of(seed) for seed in episode_seeds(block, 3, offset=BLOCK_SIZE - 3)} == {block}
    assert block_of(99 * BLOCK_SIZE) == "none"


def test_a_block_cannot_run_over_into_the_next() -> None:
    with pytest.raises(ConfigError, match="holds 1000000"):
        episode_seeds("collect", 2, offset=BLOCK_SIZE - 1)
    with pytest.raises(ConfigError, match=r"'reprt'.*report"):
        episode_seeds("reprt", 1)


def test_derived_seeds_are_fixed_for_ever_and_differ_by_purpose() -> None:
    assert derive(0, "noise") == 3674443432713553628
    found = {derive(seed, purpose) for seed in range(1000) for purpose in ("noise", "expert")}
    assert len(found) == 2000
    assert all(0 <= value < 2**63 for value in found)


def test_overlap_is_refused_with_the_seeds() -> None:
    refuse_overlap([3, 4], [1, 2], "training")
    with pytest.raises(DataError, match="1 evaluation seeds were used in training: 4"):
        refuse_overlap([3, 4], [4, 5], "training")
