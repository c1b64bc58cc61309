"""Where and with what a number was made: machine, versions, commit."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from robopolicy.cpu import BFLOAT16, cpu_flags, cpu_lines

__all__ = [
    "PACKAGES",
    "commit",
    "describe",
    "machine",
    "print_and_write",
    "print_or_write",
    "stamp",
    "versions",
]

PACKAGES = (
    "robopolicy", "torch", "numpy", "diffusers", "mujoco", "robosuite", "metaworld", "gymnasium", "zarr",
)  # fmt: skip


def machine() -> dict[str, Any]:
    """CPU model, usable cores, memory, whether it has AMX and bfloat16, GPU (if torch is in use), system."""
    flags = cpu_flags()
    found: dict[str, Any] = {
        "cpu": cpu_lines().get("model name", platform.processor() or platform.machine()),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(_memory_bytes() / 2**30, 1),
        "amx": "amx_bf16" in flags,
        "bfloat16": not flags.isdisjoint(BFLOAT16),
        "system": platform.platform(terse=True),
        "gpu": None,
    }
    torch = sys.modules.get("torch")  # importing it here only to look for a GPU would take seconds
    if torch is not None and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def describe(found: dict[str, Any]) -> str:
    """A machine in one line."""
    amx = ", AMX" if found.get("amx") else ""
    gpu = f", {found['gpu']}" if found.get("gpu") else ""
    return f"{found['cores']} cores of {found['cpu']}{amx}, {found['memory_gb']} GB{gpu}"


def versions() -> dict[str, str]:
    """Python and the packages that numbers depend on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> dict[str, Any]:
    """The library's git commit and whether files differ from it; "unknown" outside a clone."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:  # installed below somebody else's repository
        return {"commit": "unknown", "dirty": False}
    changed = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "--short=12", "HEAD") or "unknown", "dirty": bool(changed)}


def stamp() -> dict[str, Any]:
    """What every result file says of its making: commit, machine, versions, date."""
    return {
        **commit(),
        "machine": machine(),
        "versions": versions(),
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


def print_or_write(module: str, measure: Callable[[str], Mapping[str, Any]], arguments: list[str]) -> None:
    """``python -m <module> <run> [<file.json>]``: what is measured of a run, printed and perhaps written."""
    if not 1 <= len(arguments) <= 2:
        raise SystemExit(f"usage: python -m {module} <run> [<file.json>]")
    print_and_write(measure(arguments[0]), arguments[1:])


def print_and_write(found: Mapping[str, Any], paths: Sequence[str]) -> None:
    """What was measured, as JSON, to the screen and to files."""
    text = json.dumps(found, indent=1) + "\n"
    for path in paths:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    print(text, end="")


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
