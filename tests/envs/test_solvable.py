from __future__ import annotations

import json
from pathlib import Path

import pytest

from envs.solvable import main
from robopolicy.errors import ConfigError
from robopolicy.evaluation.check_tables import check_sections


def _pipeline(path: Path, task: str, solved: dict[str, bool]) -> str:
    path.write_text(json.dumps({"task": task, "stages": [{"stage": "cloned", "solved": solved}]}))
    return str(path)


@pytest.mark.sim
def test_starts_out_of_reach_are_told_from_those_that_were_not_learned(tmp_path: Path) -> None:
    pytest.importorskip("metaworld", reason="Meta-World is the extra robopolicy[metaworld]")
    seeds = range(3_000_000, 3_000_006)
    run = _pipeline(tmp_path / "run.json", "button_press_wide", {str(s): s == 3_000_002 for s in seeds})
    main([str(tmp_path / "solvable_button_press_wide.json"), run])
    found = json.loads((tmp_path / "solvable_button_press_wide.json").read_text())["episodes"]
    assert [e["learned"] for e in found] == [s == 3_000_002 for s in seeds]
    for episode in found:  # the hand can be sent to 1 m, and has to press from the front
        far = episode["place"][1]
        assert episode["expert"] == (far < 0.95), episode
        assert (episode["nearest"] < 0.06) == (far < 0.95), episode
    table = check_sections(tmp_path)
    assert "solved by none" in table
    assert "0.4 to 1" in table


def test_pipelines_of_several_tasks_are_refused(tmp_path: Path) -> None:
    runs = [_pipeline(tmp_path / f"{task}.json", task, {"3000000": True}) for task in ("push", "reach")]
    with pytest.raises(ConfigError, match="of one task, got push, reach"):
        main([str(tmp_path / "out.json"), *runs])


def test_other_suites_are_refused(tmp_path: Path) -> None:
    run = _pipeline(tmp_path / "run.json", "avoidance", {"3000000": True})
    with pytest.raises(ConfigError, match="avoidance is no task of Meta-World"):
        main([str(tmp_path / "out.json"), run])
