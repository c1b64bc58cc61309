"""Commands of a whole body: what is given comes back, what is not leaves no trace but its mask."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from robopolicy.errors import ConfigError, SpecMismatch
from robopolicy.whole_body import GOALS, CommandLayout, WholeBodyCommand

LAYOUT = CommandLayout(joints=5, steps=2)


def pose(rng: np.random.Generator) -> np.ndarray:
    quaternion = rng.normal(size=4)
    quaternion *= np.sign(quaternion[0]) / np.linalg.norm(quaternion)
    return np.concatenate([rng.normal(size=3), quaternion])


def full(seed: int) -> WholeBodyCommand:
    rng = np.random.default_rng(seed)
    return WholeBodyCommand(
        root_velocity=rng.normal(size=3),
        left_hand=pose(rng),
        right_hand=pose(rng),
        object_goal=pose(rng),
        reference=rng.normal(size=(2, 5)),
    )


@pytest.mark.parametrize("count", range(len(GOALS) + 1))
def test_every_combination_of_goals_comes_back(count: int) -> None:
    for seed, names in enumerate(itertools.combinations(GOALS, count)):
        command = full(seed).without(*names)
        vector = LAYOUT.encode(command)
        again = LAYOUT.decode(vector)
        assert vector.shape == LAYOUT.spec.shape
        assert vector.dtype == LAYOUT.spec.dtype
        assert again.given == command.given == tuple(name for name in GOALS if name not in names)
        for name in command.given:
            np.testing.assert_allclose(getattr(again, name), getattr(command, name), atol=1e-6)


def test_a_goal_left_out_is_zero_and_moves_nothing_else() -> None:
    command = full(0)
    everything = LAYOUT.encode(command)
    for index, name in enumerate(GOALS):
        vector, where = LAYOUT.encode(command.without(name)), LAYOUT.slices[name]
        assert not vector[where].any()
        assert vector[LAYOUT.slices["mask"]].tolist() == [float(i != index) for i in range(len(GOALS))]
        changed = np.flatnonzero(vector != everything)
        assert set(changed) <= {*range(where.start, where.stop), LAYOUT.slices["mask"].start + index}
    assert not LAYOUT.encode(WholeBodyCommand()).any()


def test_both_signs_of_a_quaternion_are_one_command() -> None:
    command = full(3)
    assert command.left_hand is not None
    other = WholeBodyCommand(left_hand=command.left_hand * ([1.0] * 3 + [-1.0] * 4))
    only = command.without(*(name for name in GOALS if name != "left_hand"))
    np.testing.assert_allclose(LAYOUT.encode(only), LAYOUT.encode(other), atol=1e-6)


def test_goals_are_dropped_by_chance_and_only_those_given() -> None:
    rng = np.random.default_rng(0)
    command = full(1).without("reference")
    kept = [command.dropped(rng, 0.3).given for _ in range(2000)]
    shares = {name: np.mean([name in names for names in kept]) for name in GOALS}
    assert shares.pop("reference") == 0
    assert all(abs(share - 0.7) < 0.05 for share in shares.values())
    assert command.dropped(rng, 0.0).given == command.given
    assert command.dropped(rng, 1.0).given == ()


@pytest.mark.parametrize(
    ("goals", "message"),
    [
        ({"root_velocity": [1.0, 2.0]}, r"root_velocity is \[3\], got \[2\]"),
        ({"left_hand": [0.0, 0.0, np.nan, 1.0, 0.0, 0.0, 0.0]}, "left_hand has numbers that are not finite"),
        ({"object_goal": [0.0] * 7}, "object_goal has a quaternion"),
        ({"reference": [0.0]}, r"reference is \[T, n\], got \[1\]"),
    ],
)
def test_goals_that_cannot_be(goals: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecMismatch, match=message):
        WholeBodyCommand(**goals)


def test_what_does_not_fit_the_layout() -> None:
    with pytest.raises(SpecMismatch, match=r"reference is \[2, 5\], got \[3, 5\]"):
        LAYOUT.encode(WholeBodyCommand(reference=np.zeros((3, 5))))
    with pytest.raises(SpecMismatch, match=r"got \[4\]"):
        LAYOUT.decode(np.zeros(4))
    with pytest.raises(ConfigError, match="left_hand"):
        full(0).without("left_foot")
    with pytest.raises(ConfigError, match="steps"):
        CommandLayout(steps=0)
