from __future__ import annotations

import numpy as np
import pytest

from hardware.rtc import prefix_weights
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


def test_a_policy_too_slow_for_its_chunks_is_told() -> None:
    with pytest.raises(ConfigError, match="delay=9, overlap=8, horizon=16"):
        prefix_weights(16, 9, 8)
    with pytest.raises(ConfigError, match="Unknown schedule 'cosine'"):
        prefix_weights(16, 1, 8, "cosine")  # type: ignore[arg-type]
