"""MuJoCo's C functions for code compiled by numba, so that a whole control step is one call from Python.

A global control callback (`mjcb_control`) would do the same, but holds for every simulation in the process.
Here nothing is installed anywhere: the loop over physics steps itself is compiled.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import mujoco
from llvmlite import binding
from numba import types

from robopolicy.errors import RobopolicyError

__all__ = ["ADDRESS", "mj_full_mass", "mj_site_jacobian", "mj_step1", "mj_step2"]

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
