"""The matrices of robosuite's operational-space controller, bit by bit, without what surrounds LAPACK's work.

`robosuite.utils.control_utils.opspace_matrices` inverts the inertia M of the joints and takes three
pseudo-inverses by singular values. Its last bits matter (see `envs.osc`), and they are those of one order of
operations. So the same LAPACK routines are called here in the same order, but those underneath `dgesdd`
directly and in memory that is kept: to ask for the size of work space, allocate it and choose a path takes
`dgesdd` as long as the singular values of so small a matrix.

Whether an installation's LAPACK goes that way is looked at, not assumed: `gives_robosuites_bits`.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from robosuite.utils.control_utils import opspace_matrices

from envs.native import dbdsqr, dgebd2, dgetrf, dgetri, dorm2r, dorml2

__all__ = ["gives_robosuites_bits", "operational_space", "work_space"]

_HUGE = 1e100
_TRIALS = 200


def work_space() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Memory that `operational_space` works in: numbers, integers, and LAPACK's letters."""
    return np.zeros(1024), np.zeros(32, np.int32), np.frombuffer(b"ULNRCT", np.uint8).copy()


@intrinsic
def _fuse(_: Any, a: Any, b: Any, c: Any) -> Any:
    """`a * b + c`, rounded once."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float64(a, b, c), generate


_fused: Any = _fuse  # numba gives the first argument itself


@njit(cache=True, nogil=True)
def _product(one: np.ndarray, two: np.ndarray, out: np.ndarray) -> None:
    # What BLAS's kernels do with matrices this small: each number of the result by itself, in order.
    for i in range(one.shape[0]):
        for j in range(two.shape[1]):
            total = 0.0
            for k in range(one.shape[1]):
                total = _fused(one[i, k], two[k, j], total)
            out[i, j] = total


@njit(cache=True, nogil=True)
def _pseudo_inverse(
    matrix: np.ndarray, inverse: np.ndarray, space: np.ndarray, numbers: np.ndarray, letters: np.ndarray
) -> None:
    """numba's `np.linalg.pinv` of a square matrix of at most 8 rows, into one by columns."""
    n = len(matrix)
    numbers[0], numbers[1], numbers[2] = n, n - 1, 0
    start, size, letter = space.ctypes.data, numbers.ctypes.data, letters.ctypes.data
    less, none, info = size + 4, size + 8, size + 12
    u, vt, values, beside, tau_q, tau_p, work = 64, 128, 192, 200, 208, 216, 224  # places in `space`
    for i in range(n):
        for j in range(n):
            value = matrix[i, j]
            if not abs(value) < _HUGE:
                raise np.linalg.LinAlgError("Array must not contain infs or NaNs")
            space[i + n * j] = value
            space[u + i + n * j] = space[vt + i + n * j] = 1.0 if i == j else 0.0
    at_u, at_vt, at_values, at_work = start + 8 * u, start + 8 * vt, start + 8 * values, start + 8 * work
    at_beside, at_q, at_p = start + 8 * beside, start + 8 * tau_q, start + 8 * tau_p
    dgebd2(size, size, start, size, at_values, at_beside, at_q, at_p, at_work, info)
    dbdsqr(
        letter, size, size, size, none, at_values, at_beside,
        at_vt, size, at_u, size, at_u, size, at_work, info,
    )  # fmt: skip
    if numbers[3] != 0:
        raise np.linalg.LinAlgError("Internal algorithm failed to converge.")
    dorm2r(letter + 1, letter + 2, size, size, size, start, size, at_q, at_u, size, at_work, info)
    row, column = start + 8 * n, at_vt + 8 * n
    dorml2(letter + 3, letter + 2, size, less, less, row, size, at_p, column, size, at_work, info)
    least, kept = space[values] * 1e-15, 0
    for k in range(n):
        if space[values + k] > least:
            space[values + k] = 1.0 / space[values + k]
            kept = k
    kept += 1
    for i in range(n):
        for j in range(kept):
            space[vt + i * n + j] *= space[values + j]
    for i in range(n):
        for j in range(n):
            total = 0.0
            for k in range(kept):
                total = _fused(space[vt + i * n + k], space[u + k * n + j], total)
            inverse[i, j] = total


@njit(cache=True, nogil=True)
def _inverse(matrix: np.ndarray, inverse: np.ndarray, space: np.ndarray, numbers: np.ndarray) -> None:
    """numba's `np.linalg.inv` of a matrix of at most 8 rows, into one by columns."""
    n = len(matrix)
    numbers[0], numbers[1] = n, 8 * 64
    start, size = space.ctypes.data, numbers.ctypes.data
    info, pivots = size + 12, size + 16
    for i in range(n):
        for j in range(n):
            value = matrix[i, j]
            if not abs(value) < _HUGE:
                raise np.linalg.LinAlgError("Array must not contain infs or NaNs")
            space[i + n * j] = value
    dgetrf(size, size, start, size, pivots, info)
    if numbers[3] == 0:
        dgetri(size, start, size, pivots, start + 8 * 64, size + 4, info)
    if numbers[3] != 0:
        raise np.linalg.LinAlgError("Matrix is singular to machine precision.")
    for i in range(n):
        for j in range(n):
            inverse[i, j] = space[i + n * j]


@njit(cache=True, nogil=True)
def operational_space(
    mass: np.ndarray,
    jacobian: np.ndarray,
    space: np.ndarray,
    numbers: np.ndarray,
    letters: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What robosuite's `opspace_matrices` returns, of at most 8 joints.

    Args:
        mass: inertia of the joints `[n, n]`.
        jacobian: `[6, n]`, rows of position first.
        space, numbers, letters: of `work_space`.
    """
    n = len(mass)
    inverse, whole = np.empty((n, n)).T, np.empty((6, 6)).T  # by columns, as robosuite's are
    at_position, at_rotation, null = np.empty((3, 3)).T, np.empty((3, 3)).T, np.empty((n, n))
    eased, felt, part = np.empty((6, n)), np.empty((6, 6)), np.empty((3, 3))
    _inverse(mass, inverse, space, numbers)
    _product(jacobian, inverse, eased)
    _product(eased, jacobian.T, felt)
    _pseudo_inverse(felt, whole, space, numbers, letters)
    for i in range(3):
        for j in range(3):
            part[i, j] = felt[i, j]
    _pseudo_inverse(part, at_position, space, numbers, letters)
    for i in range(3):
        for j in range(3):
            part[i, j] = felt[3 + i, 3 + j]
    _pseudo_inverse(part, at_rotation, space, numbers, letters)
    spread, back = np.empty((n, 6)), np.empty((n, 6))
    _product(inverse, jacobian.T, spread)
    _product(spread, whole, back)
    _product(back, jacobian, null)
    for i in range(n):
        for j in range(n):
            null[i, j] = (1.0 if i == j else 0.0) - null[i, j]
    return whole, at_position, at_rotation, null


@functools.cache
def gives_robosuites_bits(joints: int) -> bool:
    """Whether `operational_space` returns exactly what robosuite does, for random arms of so many joints."""
    rng, own = np.random.default_rng(0), work_space()
    if joints > 8:
        return False
    for _ in range(_TRIALS):
        root = rng.standard_normal((joints, joints)) * np.exp(rng.uniform(-3.0, 1.0, joints))
        mass = np.asfortranarray(root @ root.T + 0.05 * np.eye(joints))
        jacobian = rng.standard_normal((6, joints))
        arguments = (mass, jacobian, jacobian[:3].copy(), jacobian[3:].copy())
        found, wanted = operational_space(mass, jacobian, *own), opspace_matrices(*arguments)
        if not all(np.array_equal(one, two) for one, two in zip(found, wanted, strict=True)):
            return False
    return True
