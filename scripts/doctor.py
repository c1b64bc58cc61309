"""Check this machine: Python, packages, torch, rendering, disk. Exit status 1 if something will not work.

    python3 scripts/doctor.py

Needs nothing but Python. Before the set-up it says what is missing; afterwards it looks into .venv.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import _rendering
import _setup

COLOURS = {"ok": "32", "warn": "33", "fail": "31"}

# Each clashes with another package when it is newer: (package, first version that does not work, why).
CLASHES = (
    ("mujoco", (3, 10), "robosuite 1.5.2 calls functions that MuJoCo 3.10 changed"),
    ("numpy", (2,), "robosuite's mink 0.0.5 needs numpy<2"),
    ("hydra-core", (1, 4), "the command line is written for hydra-core 1.3"),
    ("zarr", (4,), "the store is written for zarr 3"),
)
REQUIRED = ("torch", "diffusers", "mujoco", "gymnasium", "robosuite", "hydra-core", "zarr", "numpy")
OPTIONAL = {"metaworld": "the Meta-World tasks", "wandb": "Weights & Biases"}
REPAIR = "python3 scripts/_setup.py (or quickstart.py) installs what works together"

_failures = 0


def report(level: str, what: str, text: str) -> None:
    """One line; `fail` decides the exit status."""
    global _failures  # noqa: PLW0603 - the one thing this script counts
    _failures += level == "fail"
    tag = f"{level:<4}"
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        tag = f"\033[{COLOURS[level]}m{tag}\033[0m"
    print(f"{tag}  {what:<12} {text}", flush=True)


def main() -> int:
    """Every check in turn."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    if _setup.ready():
        _setup.ensure()  # look at the packages that the scripts will use
    check_python()
    installed = check_packages()
    if "torch" in installed:
        check_torch()
    if "mujoco" in installed:
        check_rendering()
    check_ffmpeg("imageio-ffmpeg" in installed or version("imageio-ffmpeg") is not None)
    check_disk()
    print()
    print(f"{_failures} problem{'s' * (_failures != 1)}." if _failures else "Ready.")
    return int(_failures > 0)


def check_python() -> None:
    """The interpreter and where it lives."""
    level = "ok" if sys.version_info[:2] in _setup.SUPPORTED else "fail"
    suffix = "" if level == "ok" else ": robopolicy needs 3.11 or 3.12"
    report(level, "Python", f"{platform.python_version()} at {sys.executable}{suffix}")


def check_packages() -> set[str]:
    """Installed packages, by name, after reporting what is missing and what clashes."""
    found = {name: version(name) for name in (*REQUIRED, *OPTIONAL)}
    missing = [name for name in REQUIRED if found[name] is None]
    if missing:
        report("fail", "packages", f"not installed: {', '.join(missing)}. {REPAIR}.")
    for name, limit, why in CLASHES:
        if (have := found[name]) is not None:
            numbers = tuple(int(part) for part in have.split(".")[:2] if part.isdigit())
            clash = numbers >= limit
            report("fail" if clash else "ok", name, f"{have}: {why}. {REPAIR}." if clash else have)
    for name in ("robosuite", "gymnasium", "diffusers"):
        if found[name] is not None:
            report("ok", name, str(found[name]))
    for name, what in OPTIONAL.items():
        report("ok" if found[name] else "warn", name, found[name] or f"not installed: without it, not {what}")
    if version("robopolicy") is None:
        report("warn", "robopolicy", "not installed in this Python. " + REPAIR)
    return {name for name in found if found[name] is not None}


def version(name: str) -> str | None:
    """An installed distribution's version."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_torch() -> None:
    """Threads, reduced precision, and the device."""
    try:
        import torch
    except (ImportError, OSError) as error:
        report("fail", "torch", f"is installed but cannot be imported: {error}")
        return
    threads, cores = torch.get_num_threads(), os.cpu_count()
    report("ok", "torch", f"{torch.__version__}, {threads} threads (OMP_NUM_THREADS) on {cores} cores")
    flags = cpu_flags()
    if flags:
        fast = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
        note = "fast" if {"amx_bf16", "avx512_bf16"} & set(fast) else "not there, float32 is used instead"
        report("ok", "CPU", f"{', '.join(fast) or 'no AVX2'}; bfloat16 is {note}")
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        report("ok", "GPU", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}")
    elif shutil.which("nvidia-smi"):
        cause = "torch was built without CUDA" if torch.version.cuda is None else "is the driver new enough?"
        report("warn", "GPU", f"there is an NVIDIA device, but torch cannot use it: {cause}")
    else:
        report("ok", "GPU", "none: everything runs on the CPU")


def cpu_flags() -> set[str]:
    """Instruction sets, as Linux names them (empty elsewhere)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def check_rendering() -> None:
    """Every MuJoCo backend, in processes of their own."""
    errors = {backend: _rendering.render_error(backend) for backend in _rendering.backends()}
    working = [backend for backend, error in errors.items() if not error]
    for backend, error in errors.items():
        # One that works is enough.
        report("ok" if working else "warn", "rendering", f"{backend}: {error[:90] or 'draws'}")
    if not working:
        report("warn", "rendering", f"no video and no cameras. To mend it: {_rendering.remedy()}")
    elif "MUJOCO_GL" not in os.environ:
        report("ok", "rendering", f"{working[0]} will be used (MUJOCO_GL chooses another)")


def check_ffmpeg(bundled: bool) -> None:
    """Something that writes MP4 files."""
    program = None
    if bundled:
        import imageio_ffmpeg

        try:
            program = imageio_ffmpeg.get_ffmpeg_exe()
        except RuntimeError:
            program = None
    program = program or shutil.which("ffmpeg")
    works = (
        program and subprocess.run([program, "-version"], capture_output=True, check=False).returncode == 0
    )
    report("ok" if works else "warn", "ffmpeg", program or "not found: no MP4 files. " + REPAIR)


def check_disk() -> None:
    """Room and permission to write results."""
    for name in ("outputs", "data"):
        place = next(p for p in (_setup.ROOT / name, *(_setup.ROOT / name).parents) if p.exists())
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            report("fail", name, f"{place} cannot be written: {error.strerror}")
            continue
        free = shutil.disk_usage(place).free / 2**30
        report("ok" if free > 5 else "warn", name, f"{place}: {free:.0f} GiB free")


if __name__ == "__main__":
    sys.exit(main())
