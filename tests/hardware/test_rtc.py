from __future__ import annotations

import numpy as np
import pytest

from hardware.rtc import guidance_scale, pad_remainder, prefix_weights
from robopolicy.errors import ConfigError


@pytest.mark.parametrize("schedule", ["exponential", "linear"])
def test_weights_are_one_then_fall_then_zero(schedule: str) -> None:
    weights = prefix_weights(16, 4, 10, schedule)  # type: ignore[arg-type]
    assert (weights[:4] == 1).all()
    assert (np.diff(weights[3:11]) < 0).all()
    assert (weights[10:] == 0).all()


def test_exponential_weights_are_those_of_the_paper() -> None:
    weights = prefix_weights(8, 2, 5)
    for index in (2, 3, 4):
        c = (5 - index) / (5 - 2 + 1)
        assert weights[index] == pytest.approx(c * (np.exp(c) - 1) / (np.e - 1))
    assert prefix_weights(4, 0, 0).sum() == 0
    assert prefix_weights(4, 2, 4, "ones").tolist() == [1, 1, 1, 1]
    assert prefix_weights(4, 2, 4, "zeros").tolist() == [1, 1, 0, 0]


def test_guidance_scale_is_the_papers_in_other_units() -> None:
    for sigma in (0.1, 1.0, 7.0, 50.0):
        t = 1 / (1 + sigma)
        squared = (1 - t) ** 2 / (t**2 + (1 - t) ** 2)
        velocity = min(5.0, (1 - t) / (t * squared))
        # The clean estimate moves by (1 - t) times the velocity; the gradient by x / t is t times that by x.
        assert guidance_scale(sigma) == pytest.approx((1 - t) / t * velocity)


def test_a_short_remainder_is_padded_by_its_last_action() -> None:
    """lerobot#4454: zeros in normalised space are the mean of the data, and the arm went there."""
    left = np.array([[95.0], [103.0]])
    assert pad_remainder(left, 4)[:, 0].tolist() == [95, 103, 103, 103]
    assert pad_remainder(left, 1)[:, 0].tolist() == [95]
    with pytest.raises(ConfigError, match="no remainder"):
        pad_remainder(np.zeros((0, 1)), 4)


def test_a_policy_too_slow_for_its_chunks_is_told() -> None:
    with pytest.raises(ConfigError, match="delay=9, overlap=8, horizon=16"):
        prefix_weights(16, 9, 8)
    with pytest.raises(ConfigError, match="Unknown schedule 'cosine'"):
        prefix_weights(16, 1, 8, "cosine")  # type: ignore[arg-type]
