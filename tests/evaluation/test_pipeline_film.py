"""The same episodes at every stage, from what evaluations and robots have filmed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robopolicy.evaluation.evaluate import Evaluation, evaluate
from robopolicy.evaluation.pipeline_film import filmed_seeds, write_stages_film
from robopolicy.evaluation.video import SIZE, labelled, read_mp4, record_episodes, write_mp4
from robopolicy.rollout import ExpertActor
from tests.toy_env import toy_task

FIRST = 3_000_000
TASK = toy_task(horizon=8)


def row(stage: str) -> dict[str, Any]:
    return {"stage": stage, "episodes": 4, "success": {"value": 0.5}}


@pytest.fixture
def measured(tmp_path: Path) -> Evaluation:
    """The stage "cloned", of which three episodes are filmed."""
    found = evaluate(ExpertActor(8), TASK, episodes=4, workers=0, progress=False)
    report = tmp_path / "cloned" / "report"
    found.save(report)
    record_episodes(ExpertActor(8), TASK, [FIRST, FIRST + 1, FIRST + 2], report / "episodes.mp4")
    return found


def deployed(directory: Path, measured: Evaluation, index: int) -> None:
    """A robot's film, twice as fast and a quarter as large as an evaluation's."""
    directory.mkdir(exist_ok=True)
    (directory / "wire.json").touch()
    seen = measured.rows[index]
    pictures = [(step, np.full((64, 64, 3), 100, np.uint8)) for step in range(2 * seen.steps)]
    write_mp4(directory / f"episode_{seen.seed}.mp4", iter(labelled(pictures, seen)), fps=20)


@pytest.mark.slow
def test_stages_stand_side_by_side_with_the_same_seeds(tmp_path: Path, measured: Evaluation) -> None:
    assert filmed_seeds(tmp_path / "cloned") == [FIRST, FIRST + 1, FIRST + 2]
    deployed(tmp_path / "deployed", measured, 1)
    deployed(tmp_path / "deployed", measured, 2)
    rows = [row("cloned"), row("deployed")]
    assert write_stages_film(rows, tmp_path) == []
    frames, rate = read_mp4(tmp_path / "stages.mp4")
    assert rate == 10
    assert frames[0].shape == (2 * (SIZE + 2) + 28, 2 * (SIZE + 2), 3)
    # The second row is of the second seed that both have filmed, the third of the evaluation's.
    film, _ = read_mp4(tmp_path / "cloned" / "report" / "episodes.mp4")
    source = film[5][-SIZE - 1 : -1, 1 : SIZE + 1]
    shown = frames[5][-SIZE - 1 : -1, 1 : SIZE + 1]
    assert np.abs(source.astype(int) - shown).mean() < 3
    robot = frames[5][SIZE // 2 :: SIZE, -SIZE // 2]
    np.testing.assert_allclose(robot, 100, atol=6)
    assert (tmp_path / "stages.gif").stat().st_size > 1000


@pytest.mark.slow
def test_it_is_written_again_only_after_a_stage_was(tmp_path: Path, measured: Evaluation) -> None:
    rows, target = [row("cloned"), row("deployed")], tmp_path / "stages.mp4"
    deployed(tmp_path / "deployed", measured, 0)
    # What is not there is said, every time.
    for _ in range(2):
        assert write_stages_film(rows, tmp_path) == [
            f"{target} lacks seed {FIRST + 1} of deployed, which was not filmed."
        ]
    before = target.stat().st_mtime_ns
    write_stages_film(rows, tmp_path)
    assert target.stat().st_mtime_ns == before
    deployed(tmp_path / "deployed", measured, 1)
    later = target.stat().st_mtime + 1
    os.utime(tmp_path / "deployed" / f"episode_{FIRST + 1}.mp4", (later, later))
    assert write_stages_film(rows, tmp_path) == []
    assert target.stat().st_mtime_ns > before


def test_without_any_film_it_says_so(tmp_path: Path) -> None:
    (said,) = write_stages_film([row("cloned")], tmp_path)
    assert said == f"There is no {tmp_path / 'stages.mp4'}: no stage has left a film."
    assert not (tmp_path / "stages.mp4").exists()
