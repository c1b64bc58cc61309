from __future__ import annotations

import numpy as np
import pytest
import torch

from robopolicy.errors import ConfigError
from robopolicy.steering.sketch import Lines, resample

CORNER = [[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]]


def test_points_are_equally_far_apart_along_the_line() -> None:
    made = resample(CORNER, 7)
    np.testing.assert_allclose(made[:3], [[0.0, 0.0], [0.5, 0.0], [1.0, 0.0]], atol=1e-12)
    np.testing.assert_allclose(made[3:], [[1.0, 0.5], [1.0, 1.0], [1.0, 1.5], [1.0, 2.0]], atol=1e-12)


def test_how_fast_it_was_drawn_leaves_no_trace() -> None:
    """The same line drawn slowly at first, with rests, and in another direction of travel."""
    slow = [[share, 0.0] for share in np.linspace(0, 1, 50) ** 3] + [[1.0, 0.0]] * 5 + [[1.0, 2.0]]
    np.testing.assert_allclose(resample(slow, 16), resample(CORNER, 16), atol=1e-12)
    np.testing.assert_allclose(resample(slow[::-1], 16), resample(CORNER, 16)[::-1], atol=1e-12)


def test_a_straight_line_is_resampled_to_itself() -> None:
    once = resample([[0.0, 1.0, 2.0], [3.0, 1.0, -2.0]], 9)
    np.testing.assert_allclose(resample(once, 9), once, atol=1e-12)


@pytest.mark.parametrize(
    "points", [[[0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]], [[0.0, 0.0], [float("nan"), 1.0]], [0.0]]
)
def test_what_is_no_line_is_refused(points: list[list[float]]) -> None:
    with pytest.raises(ConfigError, match="sketch"):
        resample(points)


def test_places_on_a_line() -> None:
    lines = Lines(torch.tensor([CORNER, [[0.0, 0.0], [0.0, 1.0], [0.0, 5.0]]]).double())
    assert lines.length.tolist() == [3.0, 5.0]
    torch.testing.assert_close(
        lines.at(torch.tensor([[-1.0, 0.5, 2.0, 9.0], [0.0, 0.5, 2.0, 4.5]]).double()),
        torch.tensor(
            [
                [[0.0, 0.0], [0.5, 0.0], [1.0, 1.0], [1.0, 2.0]],
                [[0.0, 0.0], [0.0, 0.5], [0.0, 2.0], [0.0, 4.5]],
            ]
        ).double(),
    )
    nearest = lines.nearest(torch.tensor([[0.9, 0.4], [3.0, -2.0]]).double())
    torch.testing.assert_close(nearest, torch.tensor([1.4, 0.0]).double())


def test_the_nearest_point_is_found_as_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    line = torch.from_numpy(resample(rng.normal(size=(12, 2)), 64))[None]
    places = torch.from_numpy(rng.normal(size=(20, 2)))
    lines = Lines(line.expand(20, -1, -1).contiguous())
    dense = torch.linspace(0, float(lines.length[0]), 100_001).double().expand(20, -1)
    gap = (lines.at(dense) - places[:, None]).norm(dim=-1).amin(1)
    found = lines.at(lines.nearest(places)[:, None])[:, 0]
    torch.testing.assert_close((found - places).norm(dim=-1), gap, atol=1e-5, rtol=1e-3)
