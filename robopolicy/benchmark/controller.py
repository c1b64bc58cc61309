"""What a change of the compiled controller brings and costs.

``git apply <patch of envs/osc.py>``, then ``python -m robopolicy.benchmark.controller <what> <file.json>``.
The patch that the working tree has goes into the file, so that what was not kept can be tried again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from robopolicy.benchmark.beside_robosuite import against_robosuite
from robopolicy.benchmark.equality import check_equality
from robopolicy.compose import compose
from robopolicy.evaluation.machine import stamp
from robopolicy.task import Task

__all__ = ["CONTROLLER", "TASKS", "main", "tried"]

TASKS = ("lift", "can", "square")
CONTROLLER = "envs/osc.py"


def tried(what: str) -> dict[str, Any]:
    """Speed beside robosuite's own step, and differences from it, JSON-ready."""
    root = Path(__file__).parents[2]
    diff = subprocess.run(["git", "diff", CONTROLLER], cwd=root, capture_output=True, text=True, check=True)
    rows = []
    for name in TASKS:
        task = Task.from_dict(compose("evaluate", [f"task={name}", "policy=zero"])["task"])
        found = check_equality(task, states=1500, free=2, pairs=30)
        kept = {key: found[key] for key in ("one_step", "free_motion", "expert")}
        rows.append({"task": name, "timing": against_robosuite(task, episodes=20), **kept})
    return {"what": what, "patch": diff.stdout, "rows": rows, **stamp()}


def main(arguments: list[str]) -> None:
    """Measure and write."""
    if len(arguments) != 2:
        raise SystemExit("usage: python -m robopolicy.benchmark.controller <what was tried> <file.json>")
    Path(arguments[1]).write_text(json.dumps(tried(arguments[0]), indent=1) + "\n")
    print(f"Written to {arguments[1]}.")


if __name__ == "__main__":
    main(sys.argv[1:])
