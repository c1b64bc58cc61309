"""MuJoCo's C functions and LAPACK's for code compiled by numba: a control step is one call from Python.

A global control callback (`mjcb_control`) would do the same, but holds for every simulation in the process.
Here nothing is installed anywhere: the loop over physics steps itself is compiled.

LAPACK's are those that numba's own `numpy.linalg` calls, by way of scipy, so they give the same bits.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from llvmlite import binding
from numba import types
from scipy.linalg import cython_lapack

from robopolicy.errors import RobopolicyError

__all__ = [
    "ADDRESS",
    "dbdsqr",
    "dgebd2",
    "dgetrf",
    "dgetri",
    "disable_flags",
    "dorm2r",
    "dorml2",
    "mj_full_mass",
    "mj_site_jacobian",
    "mj_step1",
    "mj_step2",
]

ADDRESS = types.uintp
"""Of an `MjModel`, an `MjData` or an array: `model._address`, `array.ctypes.data`."""


def _library() -> ctypes.CDLL:
    folder = Path(mujoco.__file__).parent
    for pattern in ("libmujoco.so*", "libmujoco*.dylib", "mujoco.dll"):
        for path in sorted(folder.glob(pattern)):
            return ctypes.CDLL(str(path))
    raise RobopolicyError(f"MuJoCo's shared library is not in {folder}.")


def _function(name: str, *arguments: Any) -> Any:
    address = ctypes.cast(getattr(_library(), name), ctypes.c_void_p).value
    binding.add_symbol(name, address)  # compiled code, from numba's cache too, finds it by this name
    return types.ExternalFunction(name, types.void(*arguments))


mj_step1 = _function("mj_step1", ADDRESS, ADDRESS)
mj_step2 = _function("mj_step2", ADDRESS, ADDRESS)
mj_full_mass = _function("mj_fullM", ADDRESS, ADDRESS, ADDRESS)
mj_site_jacobian = _function("mj_jacSite", ADDRESS, ADDRESS, ADDRESS, ADDRESS, types.intc)


def _lapack(name: str, arguments: int) -> Any:
    capsule, api = cython_lapack.__pyx_capi__[name], ctypes.pythonapi
    api.PyCapsule_GetName.restype, api.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    symbol = f"robopolicy_{name}"
    binding.add_symbol(symbol, api.PyCapsule_GetPointer(capsule, api.PyCapsule_GetName(capsule)))
    return types.ExternalFunction(symbol, types.void(*[ADDRESS] * arguments))


dgetrf = _lapack("dgetrf", 6)
dgetri = _lapack("dgetri", 7)
dgebd2 = _lapack("dgebd2", 10)
dbdsqr = _lapack("dbdsqr", 15)
dorm2r = _lapack("dorm2r", 12)
dorml2 = _lapack("dorml2", 12)


def disable_flags(model: mujoco.MjModel) -> np.ndarray:
    """A view `[1]` of `model.opt.disableflags`, for compiled code to set.

    Raises:
        RobopolicyError: it is not among the first integers behind `model.opt.o_friction`.
    """
    # The bindings show structures' arrays, but not where their numbers are.
    start = model.opt.o_friction.ctypes.data + model.opt.o_friction.nbytes
    numbers = np.ctypeslib.as_array(ctypes.cast(start, ctypes.POINTER(ctypes.c_int)), (12,))
    kept = model.opt.disableflags
    found = set(range(len(numbers)))
    for marker in (0x2A55, 0x155A):
        model.opt.disableflags = marker
        found &= {int(place) for place in np.flatnonzero(numbers == marker)}
    model.opt.disableflags = kept
    if len(found) != 1:
        raise RobopolicyError("This version of MuJoCo keeps its disable flags elsewhere.")
    place = found.pop()
    return numbers[place : place + 1]
