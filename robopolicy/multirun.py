"""Several runs of one script: each in a process of its own, so that none inherits another's state."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = ["run_all"]


def run_all(runs: Sequence[Sequence[str]], jobs: int = 1) -> int:
    """Run ``sys.argv[0]`` once for every list of overrides, going on after failures.

    With one job the output goes to the terminal; with more, each run has a log under ``multirun/``.

    Returns:
        0 if every run succeeded, 130 if interrupted, otherwise 1.
    """
    logs = None
    if jobs > 1:
        logs = Path("multirun") / time.strftime("%Y%m%d-%H%M%S")
        logs.mkdir(parents=True, exist_ok=True)
        print(f"Logs: {logs}/", flush=True)

    stopping = False
    codes: dict[int, int] = {}

    def run(index: int) -> None:
        if stopping:
            return
        title = f"[{index + 1}/{len(runs)}] {' '.join(runs[index])}"
        line = [sys.executable, sys.argv[0], *runs[index]]
        print(title, flush=True)
        if logs is None:
            codes[index] = subprocess.call(line)
        else:
            with open(logs / f"{index + 1}.log", "w") as log:
                codes[index] = subprocess.call(
                    line, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
                )
            print(f"{title}: {_outcome(codes[index])}", flush=True)

    try:
        if jobs == 1:
            for index in range(len(runs)):
                run(index)
        else:
            with ThreadPoolExecutor(jobs) as pool:
                try:
                    list(pool.map(run, range(len(runs))))
                except KeyboardInterrupt:
                    stopping = True  # the terminal has interrupted the children; start no more
                    raise
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)

    print(f"\n{sum(code == 0 for code in codes.values())} of {len(runs)} runs succeeded:")
    for index, overrides in enumerate(runs):
        print(f"  {_outcome(codes.get(index)):<14} {' '.join(overrides)}")
    if len(codes) < len(runs) or 130 in codes.values():
        return 130
    return int(any(codes.values()))


def _outcome(code: int | None) -> str:
    if code is None:
        return "not run"
    return {0: "ok", 130: "interrupted"}.get(code, f"failed ({code})")
