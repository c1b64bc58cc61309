from __future__ import annotations

import json
from pathlib import Path

import pytest

from robopolicy.errors import ConfigError
from robopolicy.rl.runs import main


def run(directory: Path, task: str = "can", **method: object) -> str:
    directory.mkdir(parents=True)
    config = {
        "name": directory.name,
        "task": {"name": task},
        "evaluate": {"episodes": 50, "every": len(directory.name)},
        "method": {"name": "dsrl", "gamma": 0.99, **method},
    }
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "metrics.csv").write_text("step,success,kl\n0,0.5,\n10,,0.1\n20,0.75,\n")
    return str(directory)


def test_runs_differ_in_what_they_do_and_in_their_curves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [run(tmp_path / "a/seed0", bound=0.5), run(tmp_path / "b/seed00", bound=1.5, data="x")]
    main([str(tmp_path / "found.json"), *runs])
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["settings"] for row in found["rows"]] == [
        {"method.bound": 0.5},
        {"method.bound": 1.5, "method.data": "x"},
    ]
    assert found["rows"][0]["steps"] == [0, 20]
    assert found["rows"][0]["success"] == [0.5, 0.75]
    assert found["rows"][1]["run"] == "b"
    assert "commit" in found
    assert "a: 50%, 75%" in capsys.readouterr().out


def test_runs_that_cannot_stand_side_by_side_are_refused(tmp_path: Path) -> None:
    first = run(tmp_path / "a/seed0")
    with pytest.raises(ConfigError, match="different tasks: can, push"):
        main([str(tmp_path / "f.json"), first, run(tmp_path / "b/seed0", task="push")])
    with pytest.raises(ConfigError, match="nothing holds no refinement"):
        main([str(tmp_path / "f.json"), first, str(tmp_path / "nothing")])
    with pytest.raises(SystemExit, match="usage"):
        main([])
