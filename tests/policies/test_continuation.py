from __future__ import annotations

import numpy as np
import pytest

from robopolicy.errors import ConfigError, MissingCapability
from robopolicy.policies.continuation import ContinuingActor
from robopolicy.rollout import LaneView, PolicyActor
from tests.policies.toys import NETWORK, make, observation

DIFFUSION = {"network": NETWORK, "sampler": {"name": "ddim", "steps": 10}}


def view(time: int = 1, lanes: int = 1) -> LaneView:
    return LaneView(observation(lanes), np.arange(lanes), np.full(lanes, time))


def actor(*, guided: bool) -> ContinuingActor:
    made = ContinuingActor(make("diffusion", **DIFFUSION), 7, guided=guided)
    made.act(view(time=0))
    return made


def test_rows_that_are_given_come_back() -> None:
    last = 0.8 * np.sin(np.arange(7)[:, None] + np.arange(2)).astype(np.float32)
    rows = actor(guided=False).continue_from(view(), last, 2.0, lambda covered: np.ones(8))[0]
    np.testing.assert_allclose(rows[:5], last[2:], atol=1e-5)
    np.testing.assert_allclose(rows[5:], last[-1:].repeat(2, 0), atol=1e-5)  # beyond its end the last holds
    between = actor(guided=False).continue_from(view(), last, 1.5, lambda covered: np.ones(8))[0]
    np.testing.assert_allclose(between[:5], 0.5 * (last[1:6] + last[2:7]), atol=1e-5)


def test_guidance_pulls_toward_what_is_given() -> None:
    last = np.full((7, 2), 0.9, np.float32)

    def distance(weight: float) -> float:
        rows = actor(guided=True).continue_from(view(), last, 1.0, lambda covered: np.full(8, weight))[0]
        return float(np.abs(rows - 0.9).mean())

    assert distance(1.0) < 0.7 * distance(0.0)


def test_the_number_of_covered_rows_is_told() -> None:
    seen: list[int] = []

    def weigh(covered: int) -> np.ndarray:
        seen.append(covered)
        return np.zeros(8)

    # Of 8 rows, the first is one step before the observation; the last chunk has 7, from its own on.
    for elapsed in (0.0, 2.0, 2.5, 20.0):
        actor(guided=False).continue_from(view(), np.zeros((7, 2), np.float32), elapsed, weigh)
    assert seen == [8, 6, 5, 0]


def test_what_cannot_continue_is_refused() -> None:
    with pytest.raises(MissingCapability, match="takes denoising, not GaussianPolicy"):
        ContinuingActor(make("gaussian"))
    with pytest.raises(ConfigError, match="One lane and elapsed >= 0"):
        actor(guided=True).continue_from(
            view(lanes=2), np.zeros((7, 2), np.float32), 0.0, lambda n: np.ones(8)
        )
    assert isinstance(actor(guided=True), PolicyActor)
