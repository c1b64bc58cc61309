"""Success over the wire beside success in the simulator, in one JSON file that several runs fill."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.errors import DataError
from robopolicy.evaluation.machine import stamp
from robopolicy.evaluation.statistics import paired_difference, wilson

__all__ = ["WireResults", "summarise"]


class WireResults:
    """One condition of the file: ``{"conditions": {label: {"episodes": [...], ...}}}``.

    Args:
        reference: an ``evaluation.json`` whose episodes are compared seed by seed.

    Raises:
        DataError: the reference does not exist.
    """

    def __init__(self, path: str, label: str, reference: str | None = None) -> None:
        self.path, self.label, self._stamp = Path(path), label, stamp()
        self._values: dict[str, Any] = json.loads(self.path.read_text()) if self.path.is_file() else {}
        self._condition = self._values.setdefault("conditions", {}).setdefault(label, {"episodes": []})
        if reference is not None:
            source = Path(reference)
            if not source.is_file():
                raise DataError(f"{source} does not exist; evaluate the policy in the simulator first.")
            rows = json.loads(source.read_text())["episodes"]
            self._values["in_simulator"] = {str(row["seed"]): bool(row["success"]) for row in rows}

    @property
    def seeds(self) -> set[int]:
        """Episodes that the file has already."""
        return {row["seed"] for row in self._condition["episodes"]}

    def add(self, episode: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Add an episode and write the file, whole or not at all."""
        rows = self._condition["episodes"]
        rows.append(dict(episode))
        inside = self._values.get("in_simulator", {})
        self._condition |= {"settings": dict(settings), **summarise(rows, inside), "last_run": self._stamp}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_text(json.dumps(self._values, indent=1) + "\n")
        os.replace(partial, self.path)


def summarise(rows: list[dict[str, Any]], reference: Mapping[str, bool]) -> dict[str, Any]:
    """Success with its 90% interval, and the paired difference from the reference where it has the seeds."""
    won = [bool(row["success"]) for row in rows]
    found: dict[str, Any] = {
        "count": len(rows),
        "success": asdict(wilson(sum(won), len(won), 0.9)),
        "tripped": sum(bool(row["tripped"]) for row in rows),
        "inference_ms": round(float(np.median([row["inference_ms"] for row in rows])), 2),
    }
    tracked = [row["tracking_mm"] for row in rows if row["tracking_mm"] is not None]
    if tracked:
        found["tracking_mm"] = round(float(np.median(tracked)), 2)
    seeds = [str(row["seed"]) for row in rows]
    pairs = [(w, reference[seed]) for w, seed in zip(won, seeds, strict=True) if seed in reference]
    if pairs:
        wire, inside = ([pair[side] for pair in pairs] for side in (0, 1))
        difference = paired_difference([wire], [inside], 0.9)
        found["minus_in_simulator"] = {"pairs": len(pairs), "confidence": 0.9, **asdict(difference.interval)}
    return found
