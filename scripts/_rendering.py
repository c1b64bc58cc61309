"""MuJoCo without a display: which backend draws a picture, and how to get one. Standard library only."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from _setup import apt, say

PACKAGES = ("libegl1", "libgl1-mesa-dri", "libosmesa6")

RENDER = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 3'/><geom size='.2' rgba='1 0 0 1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    assert renderer.render().max() > 0, "the picture is black"
"""


def working_backend() -> str:
    """The first MuJoCo rendering backend that draws a picture ("" if none does)."""
    return next((name for name in backends() if not render_error(name)), "")


def backends() -> list[str]:
    """MuJoCo's rendering backends, the best for a machine without a display first."""
    if os.environ.get("MUJOCO_GL"):
        return [os.environ["MUJOCO_GL"]]
    return ["egl", "osmesa", "glfw"] if sys.platform.startswith("linux") else ["glfw"]


def render_error(backend: str) -> str:
    """Why a backend does not work, in one line ("" if it does)."""
    environment = {**os.environ, "MUJOCO_GL": backend}
    if backend in ("egl", "osmesa"):
        environment["PYOPENGL_PLATFORM"] = backend
    try:
        run = subprocess.run(
            [sys.executable, "-c", RENDER],
            check=False,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
        )
    except subprocess.TimeoutExpired:
        return "no picture after 60 s"
    lines = run.stdout.decode(errors="replace").strip().splitlines() or [f"exit status {run.returncode}"]
    # The last line may come from a destructor; the cause is the last line that names an exception.
    return (
        next((x for x in reversed(lines) if re.match(r"[\w.]*Error\b", x)), lines[-1])
        if run.returncode
        else ""
    )


def remedy() -> str:
    """What a person types to get software rendering."""
    if sys.platform.startswith("linux"):
        return "sudo apt-get install " + " ".join(PACKAGES) + "   (or your distribution's EGL and OSMesa)"
    return "MuJoCo needs a graphics session here"


def ensure() -> str:
    """The MuJoCo backend to use, after installing software rendering where that is possible.

    Returns:
        The backend's name; "" where nothing draws, after saying how to mend it.
    """
    backend = working_backend()
    if not backend and "MUJOCO_GL" not in os.environ:
        if apt("libegl1", "libgl1-mesa-dri"):
            backend = working_backend()
        if not backend and apt("libosmesa6"):  # separate: recent distributions no longer have it
            backend = working_backend()
    if not backend:
        say("MuJoCo cannot draw here, so there will be no video. To mend it:")
        say(remedy())
    return backend
