from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from robopolicy.codecs.rotation import from_matrix, to_matrix

SIZES = {"rot6d": 6, "axis_angle": 3, "quat_xyzw": 4, "quat_wxyz": 4}


def random_axis_angle(count: int, dtype: torch.dtype, largest: float = math.pi - 1e-3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    axis = torch.randn(count, 3, generator=generator, dtype=dtype)
    angle = torch.rand(count, 1, generator=generator, dtype=dtype) * largest
    return axis / axis.norm(dim=-1, keepdim=True) * angle


def assert_rotation(matrix: Tensor, tolerance: float) -> None:
    eye = torch.eye(3, dtype=matrix.dtype)
    assert torch.isfinite(matrix).all()
    assert (matrix @ matrix.transpose(-1, -2) - eye).abs().max() < tolerance
    assert (torch.linalg.det(matrix) - 1).abs().max() < tolerance


@pytest.mark.parametrize("representation", SIZES)
def test_round_trip_through_every_representation(representation: str) -> None:
    matrix = to_matrix(random_axis_angle(500, torch.float64), "axis_angle")
    assert_rotation(matrix, 1e-12)
    back = to_matrix(from_matrix(matrix, representation), representation)
    assert (back - matrix).abs().max() < 1e-12


@pytest.mark.parametrize("scale", [0.0, 1e-9, 1e-5, 1.0, math.pi - 1e-6])
def test_axis_angle_round_trip_at_small_and_large_angles(scale: float) -> None:
    axis = random_axis_angle(50, torch.float64)
    vector = axis / axis.norm(dim=-1, keepdim=True) * scale
    back = from_matrix(to_matrix(vector, "axis_angle"), "axis_angle")
    assert (back - vector).abs().max() < 1e-8


def test_a_known_rotation() -> None:
    quarter_turn = torch.tensor([0.0, 0.0, math.pi / 2], dtype=torch.float64)
    expected = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    assert torch.allclose(to_matrix(quarter_turn, "axis_angle"), expected, atol=1e-12)
    half = math.sqrt(0.5)
    xyzw = torch.tensor([0, 0, half, half], dtype=torch.float64)
    assert torch.allclose(from_matrix(expected, "quat_xyzw"), xyzw)
    assert torch.allclose(from_matrix(expected, "quat_wxyz"), xyzw[[3, 0, 1, 2]])


def test_any_six_numbers_become_a_rotation() -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(200, 6, generator=generator, dtype=torch.float64) * 10
    degenerate = torch.stack(
        [
            torch.zeros(6),
            torch.tensor([1.0, 0, 0, 2, 0, 0]),
            torch.tensor([0.0, 0, 0, 1, 0, 0]),
            torch.full((6,), 1e30),
            torch.full((6,), 1e-30),
        ]
    ).double()
    assert_rotation(to_matrix(torch.cat([values, degenerate]), "rot6d"), 1e-9)
