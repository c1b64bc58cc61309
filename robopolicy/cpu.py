"""What the processor is, as Linux tells it; importing this imports no torch."""

from __future__ import annotations

import functools
from pathlib import Path

__all__ = ["BFLOAT16", "cpu_flags", "cpu_lines"]

BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Flags of processors that have instructions for bfloat16."""


@functools.cache
def cpu_lines() -> dict[str, str]:
    """What is said of the first core ("model name", "vendor_id", ...); empty where nothing is."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def cpu_flags() -> frozenset[str]:
    """Instruction sets; empty where they are not told."""
    return frozenset(cpu_lines().get("flags", cpu_lines().get("Features", "")).split())
