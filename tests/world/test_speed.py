from __future__ import annotations

from pathlib import Path

import pytest

from robopolicy.world.speed import BATCHES, speed, training_minutes
from robopolicy.world.train import WorldTraining


def test_what_is_timed(trained: WorldTraining) -> None:
    found = speed(trained.directory, seconds=0.1, rounds=2)
    names = {"simulated", *(f"imagined {count}" for count in BATCHES)}
    assert set(found["steps_per_second"]) == set(found["times_the_simulator"]) == names
    assert found["times_the_simulator"]["simulated"] == 1
    assert found["steps_per_second"]["imagined 1024"] > found["steps_per_second"]["imagined 1"]


def test_minutes_of_a_training_come_from_its_log(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"trainer": {"batch_size": 30}}')
    rows = ['{"step": 100, "samples_per_s": 50}', '{"step": 100, "validation_loss": 1}']
    (tmp_path / "metrics.jsonl").write_text("\n".join([*rows, '{"step": 150, "samples_per_s": 25}']) + "\n")
    assert training_minutes(tmp_path) == pytest.approx((60 + 60) / 60)
