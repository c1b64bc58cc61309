"""Pictures of a MuJoCo scene with no display: EGL where it works, software OSMesa otherwise."""

from __future__ import annotations

import atexit
import functools
import importlib
import os
import subprocess
import sys
from typing import Any

import numpy as np

from robopolicy.errors import ConfigError, RobopolicyError, unknown

__all__ = ["Renderer", "backend"]

_PROBE = """
import importlib, mujoco
gl = importlib.import_module("mujoco.{backend}").GLContext(64, 64)
gl.make_current()
mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_100)
"""
_CANDIDATES = {"darwin": ("cgl",), "win32": ("glfw",)}
_BACKENDS = ("egl", "osmesa", "glfw", "cgl")


@functools.cache
def backend() -> str:
    """The OpenGL backend that works here; ``MUJOCO_GL`` decides when it is set.

    A candidate is tried in a process of its own, because a broken driver may crash instead of raising.

    Raises:
        RobopolicyError: none works; the message says what to install.
        ConfigError: ``MUJOCO_GL`` is not a backend.
    """
    asked = os.environ.get("MUJOCO_GL", "").lower().strip()
    if asked:
        if asked not in _BACKENDS:
            raise ConfigError("MUJOCO_GL: " + unknown("rendering backend", asked, _BACKENDS))
        candidates: tuple[str, ...] = (asked,)
    else:
        candidates = _CANDIDATES.get(sys.platform, ("egl", "osmesa"))
    reasons = []
    for name in candidates:
        reason = _probe(name)
        if not reason:
            return name
        reasons.append(f"{name}: {reason}")
    raise RobopolicyError(
        "No OpenGL backend works, so nothing can be rendered ("
        + "; ".join(reasons)
        + "). On Debian or Ubuntu: apt-get install libegl1 libgl1-mesa-dri libosmesa6. "
        "Training and evaluating without images or videos needs none of this."
    )


def _probe(name: str) -> str:
    """Why a backend does not work; empty if it does."""
    environment = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    command = [sys.executable, "-c", _PROBE.format(backend=name)]
    try:
        run = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        return "the probe did not answer in 60 s"
    lines = run.stderr.strip().splitlines()
    return "" if run.returncode == 0 else (lines[-1] if lines else f"exit code {run.returncode}")


class Renderer:
    """Draws one model; the OpenGL context is made at the first picture and belongs to that thread.

    Args:
        model: a `mujoco.MjModel`.
        hidden_groups: geom groups left out (robosuite keeps its collision shapes in group 0).
    """

    def __init__(self, model: Any, hidden_groups: tuple[int, ...] = ()) -> None:
        import mujoco

        self._mujoco = mujoco
        self._model = model
        self._scene = mujoco.MjvScene(model, maxgeom=10_000)
        # Where a software renderer's time goes: reflections, multisampling and large shadow maps.
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        model.vis.quality.offsamples = 0
        model.vis.quality.shadowsize = min(512, model.vis.quality.shadowsize)
        self._option = mujoco.MjvOption()
        for group in hidden_groups:
            self._option.geomgroup[group] = 0
        self._gl: Any = None
        self._context: Any = None
        self._size = 0

    def picture(self, data: Any, camera: str, size: int) -> np.ndarray:
        """A uint8 `[size, size, 3]` picture from a camera named in the model, right side up.

        Raises:
            ConfigError: the model has no such camera.
        """
        mujoco = self._mujoco
        identity = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        if identity < 0:
            names = [self._model.camera(i).name for i in range(self._model.ncam)]
            raise ConfigError(unknown("camera", camera, names))
        self._prepare(size)
        self._gl.make_current()
        view = mujoco.MjvCamera()
        view.type, view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, identity
        mujoco.mjv_updateScene(
            self._model, data, self._option, None, view, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )
        area = mujoco.MjrRect(0, 0, size, size)
        pixels = np.empty((size, size, 3), np.uint8)
        mujoco.mjr_render(area, self._scene, self._context)
        mujoco.mjr_readPixels(pixels, None, area, self._context)
        return np.ascontiguousarray(pixels[::-1])

    def close(self) -> None:
        """Free the OpenGL context."""
        if self._context is not None:
            atexit.unregister(self.close)
            self._gl.make_current()
            self._context.free()
            self._gl.free()
            self._context = self._gl = None
            self._size = 0

    def _prepare(self, size: int) -> None:
        if size <= self._size:
            return
        self.close()
        frame = self._model.vis.global_
        frame.offwidth, frame.offheight = max(size, frame.offwidth), max(size, frame.offheight)
        module = importlib.import_module(f"mujoco.{backend()}")
        self._gl = module.GLContext(int(frame.offwidth), int(frame.offheight))
        self._gl.make_current()
        self._context = self._mujoco.MjrContext(self._model, self._mujoco.mjtFontScale.mjFONTSCALE_100)
        self._mujoco.mjr_setBuffer(self._mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._size = int(min(frame.offwidth, frame.offheight))
        atexit.register(self.close)  # freed later, the driver's own exit handler would have run before
