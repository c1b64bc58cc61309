"""Metrics to CSV, JSON lines and TensorBoard always, to Weights & Biases where asked for."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robopolicy.errors import ConfigError

__all__ = ["MetricsLog", "read_metrics"]


class MetricsLog:
    """Appends rows of scalars by step. Rows after `resume_step` of an earlier session are dropped."""

    def __init__(
        self,
        directory: Path,
        *,
        resume_step: int = 0,
        wandb: bool = False,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._json, self._csv = self.directory / "metrics.jsonl", self.directory / "metrics.csv"
        self.rows = [row for row in read_metrics(self._json) if row["step"] <= resume_step]
        self._columns = list(dict.fromkeys(key for row in self.rows for key in row))
        self._json.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        self._write_csv()
        self._board = SummaryWriter(str(self.directory / "tensorboard"), purge_step=resume_step + 1)
        self._wandb = _start_wandb(self.directory, config or {}) if wandb else None

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Record scalars at a step."""
        row = {"step": step, **{key: float(value) for key, value in values.items()}}
        self.rows.append(row)
        with self._json.open("a") as file:
            file.write(json.dumps(row) + "\n")
        new = [key for key in row if key not in self._columns]
        if new:
            self._columns += new
            self._write_csv()
        else:
            with self._csv.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        for key, value in values.items():
            self._board.add_scalar(key, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)

    def close(self) -> None:
        """Flush everything."""
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _write_csv(self) -> None:
        with self._csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(self.rows)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics.jsonl; an unfinished last line is dropped."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _start_wandb(directory: Path, config: Mapping[str, Any]) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ConfigError("wandb=true needs Weights & Biases: pip install wandb.") from error
    return wandb.init(project="robopolicy", dir=str(directory), config=dict(config), name=directory.name)
