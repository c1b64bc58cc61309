"""Run the tests; sets up .venv first. Other arguments go to pytest (paths, -k, -x, ...)."""

from __future__ import annotations

import _setup

_setup.ensure()

import argparse
import os
import subprocess
import sys

CHECKS = (("ruff", "check"), ("ruff", "format", "--check"), ("mypy",))


def main() -> int:
    """Exit status: 0 if everything passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="the slow tests too")
    parser.add_argument("--minutes", type=float, help="with --all: start no slow test after this long")
    parser.add_argument("--check", action="store_true", help="ruff and mypy first")
    arguments, rest = parser.parse_known_args()
    os.chdir(_setup.ROOT)
    if arguments.check:
        for check in CHECKS:
            print("+", *check, flush=True)
            if code := subprocess.call([sys.executable, "-m", *check]):
                return code
    line = [sys.executable, "-m", "pytest", "-m", "not gpu" if arguments.all else "not gpu and not slow"]
    if arguments.minutes is not None:
        line += [f"--slow-minutes={arguments.minutes}"]
    if not {"-n", "-s", "--pdb"} & set(rest) and not any(os.path.exists(x.split("::")[0]) for x in rest):
        # One more than there are cores: many tests wait for a robot.
        line += ["-n", str(min((os.cpu_count() or 1) + 1, 4)), "--dist", "worksteal"]
    return subprocess.call([*line, *rest])


if __name__ == "__main__":
    sys.exit(main())
