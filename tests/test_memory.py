from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from robopolicy.memory import KEPT, keep_memory

WORK = """
import resource, numpy as np
from robopolicy.memory import keep_memory
{told}
def work():
    for _ in range(20):
        parts = [np.ones(500_000, np.float32) for _ in range(50)]
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
before = faults()
work()
print(faults() - before)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc",
    reason="glibc alone can be told to keep memory (mallopt); this system has another C library",
)
@pytest.mark.slow
def test_pages_are_not_taken_again_and_again() -> None:
    def faults(told: str) -> int:
        code = WORK.format(told=told)
        return int(
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        )

    assert KEPT > 100e6  # what the work holds at once
    assert faults("assert keep_memory()") * 10 < faults("")


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robopolicy.memory.ctypes.CDLL", lambda name: object())
    assert not keep_memory()
