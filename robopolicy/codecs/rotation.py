"""Rotations between axis-angle, quaternions, matrices and the six-number form of Zhou et al. (2019).

All functions act on the last axis (two axes for matrices `[..., 3, 3]`), keep the dtype, and are finite for
every finite input. rot6d holds the first two rows of the matrix, as in Diffusion Policy's data.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robopolicy.errors import ConfigError, unknown

__all__ = ["from_matrix", "to_matrix"]


def to_matrix(value: Tensor, representation: str) -> Tensor:
    """`[..., d]` in a representation to `[..., 3, 3]` in SO(3)."""
    if representation == "rot6d":
        return _matrix_from_rot6d(value)
    if representation == "axis_angle":
        return _matrix_from_quaternion(_quaternion_from_axis_angle(value))
    if representation == "quat_xyzw":
        return _matrix_from_quaternion(value)
    if representation == "quat_wxyz":
        return _matrix_from_quaternion(value.roll(-1, dims=-1))
    raise ConfigError(unknown("rotation", representation, ["rot6d", "axis_angle", "quat_xyzw", "quat_wxyz"]))


def from_matrix(matrix: Tensor, representation: str) -> Tensor:
    """`[..., 3, 3]` to `[..., d]`. Quaternions have w >= 0; axis-angle has an angle of at most pi."""
    if representation == "rot6d":
        return matrix[..., :2, :].flatten(-2)
    quaternion = _quaternion_from_matrix(matrix)
    if representation == "axis_angle":
        return _axis_angle_from_quaternion(quaternion)
    if representation == "quat_xyzw":
        return quaternion
    if representation == "quat_wxyz":
        return quaternion.roll(1, dims=-1)
    raise ConfigError(unknown("rotation", representation, ["rot6d", "axis_angle", "quat_xyzw", "quat_wxyz"]))


def _unit(vector: Tensor, fallback: Tensor) -> Tensor:
    norm = vector.norm(dim=-1, keepdim=True)
    tiny = norm < 1e-12
    return torch.where(tiny, fallback, vector / norm.masked_fill(tiny, 1.0))


def _matrix_from_rot6d(value: Tensor) -> Tensor:
    axes = torch.eye(3, dtype=value.dtype, device=value.device)
    first = _unit(value[..., :3], axes[0].expand(value[..., :3].shape))
    rest = value[..., 3:] - (first * value[..., 3:]).sum(-1, keepdim=True) * first
    # Parallel rows leave the second undetermined: take the axis least aligned with the first.
    axis = axes[first.abs().argmin(dim=-1)]
    fallback = axis - (first * axis).sum(-1, keepdim=True) * first
    scale = value[..., 3:].norm(dim=-1, keepdim=True).clamp_min(1e-12)
    second = _unit(torch.where(rest.norm(dim=-1, keepdim=True) < 1e-7 * scale, fallback, rest), fallback)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=-2)


def _quaternion_from_axis_angle(value: Tensor) -> Tensor:
    angle = value.norm(dim=-1, keepdim=True)
    half = angle / 2
    # sin(a/2)/a, by torch.sinc so that it is exact at zero: sinc(x) = sin(pi x)/(pi x).
    return torch.cat([value * torch.sinc(half / torch.pi) / 2, half.cos()], dim=-1)


def _axis_angle_from_quaternion(quaternion: Tensor) -> Tensor:
    vector, scalar = quaternion[..., :3], quaternion[..., 3:]
    norm = vector.norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(norm, scalar)
    small = norm < 1e-12
    return vector * torch.where(small, 2.0, angle / norm.masked_fill(small, 1.0))


def _matrix_from_quaternion(quaternion: Tensor) -> Tensor:
    identity = torch.tensor([0.0, 0, 0, 1], dtype=quaternion.dtype, device=quaternion.device)
    x, y, z, w = _unit(quaternion, identity.expand(quaternion.shape)).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], -1),
        torch.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], -1),
        torch.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def _quaternion_from_matrix(m: Tensor) -> Tensor:
    """xyzw with w >= 0, from whichever of the four components is largest (Shepperd 1978)."""
    d0, d1, d2 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    squares = torch.stack([1 + d0 - d1 - d2, 1 - d0 + d1 - d2, 1 - d0 - d1 + d2, 1 + d0 + d1 + d2], -1)
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    xw, yw, zw = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    candidates = torch.stack(
        [
            torch.stack([squares[..., 0], xy, xz, xw], -1),
            torch.stack([xy, squares[..., 1], yz, yw], -1),
            torch.stack([xz, yz, squares[..., 2], zw], -1),
            torch.stack([xw, yw, zw, squares[..., 3]], -1),
        ],
        -2,
    )
    best = squares.argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    quaternion = candidates.gather(-2, best).squeeze(-2)
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True)
    return torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)
