"""Stages of commands: run once, resumed after a failure, and measured against each other."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from robopolicy.compose import compose, options
from robopolicy.errors import ConfigError, RobopolicyError
from robopolicy.evaluation import pipeline
from robopolicy.evaluation.evaluate import EpisodeRow, Evaluation
from robopolicy.evaluation.pipeline import PipelineConfig, markdown, run_pipeline
from robopolicy.evaluation.pipeline_film import filmed_seeds
from robopolicy.evaluation.results import Plan
from robopolicy.evaluation.tables import write_page
from robopolicy.learning.checkpoint import load
from robopolicy.policies.policy import blank_observation
from tests.commands import run
from tests.toy_env import toy_task


def evaluation(directory: Path, won: int, count: int = 20) -> None:
    rows = [
        EpisodeRow(index=i, seed=3_000_000 + i, success=i < won, success_final=i < won, steps=5,
                   first_success=5, total_reward=0.0)
        for i in range(count)
    ]  # fmt: skip
    Evaluation(task=toy_task(), block="report", rows=tuple(rows), wall_seconds=1.0, lanes=1, workers=0).save(
        directory
    )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Commands of the form "measure <directory> <successes>", "wire <directory> <successes>" or "break"."""
    called: list[str] = []

    def act(line: str) -> None:
        called.append(line)
        verb, *words = line.split()
        if verb == "break":
            raise RobopolicyError("it breaks")
        directory = Path(words[0])
        directory.mkdir(parents=True, exist_ok=True)
        if verb == "measure":
            evaluation(directory / "report", int(words[1]))
            (directory / "report" / "sampling.json").write_text(json.dumps({"ms": 12.0}))
        else:
            rows = [
                {"seed": 3_000_000 + i, "success": i < int(words[1]), "inference_ms": 30.0 + i}
                for i in range(20)
            ]
            (directory / "wire.json").write_text(json.dumps({"conditions": {"as is": {"episodes": rows}}}))

    monkeypatch.setattr(pipeline, "_run", act)
    return called


def configured(out: Path, **changes: Any) -> PipelineConfig:
    stages = {
        "cloned": (f"measure {out}/cloned 6",),
        "practised": (f"measure {out}/practised 18",),
        "deployed": (f"wire {out}/deployed 17",),
    }
    values: dict[str, Any] = {"task": "t", "out": str(out), "episodes": 20, "stages": stages}
    return PipelineConfig(**(values | changes))


def test_every_stage_is_compared_with_the_one_before_and_with_the_first(
    tmp_path: Path, calls: list[str]
) -> None:
    rows = run_pipeline(configured(tmp_path, results=str(tmp_path / "copy.json")))
    assert [row["success"]["value"] for row in rows] == [0.3, 0.9, 0.85]
    assert rows[0]["gain"] is None
    assert rows[1]["gain"]["value"] == pytest.approx(0.6)
    assert rows[1]["gain"]["low"] > 0
    assert rows[2]["gain"]["value"] == pytest.approx(-0.05)
    assert rows[2]["total_gain"]["value"] == pytest.approx(0.55)
    assert [row["chunk_ms"] for row in rows] == [12.0, 12.0, 39.5]
    saved = json.loads((tmp_path / "copy.json").read_text())
    assert saved["stages"] == rows
    assert "commit" in saved
    assert "+60 [" in markdown(rows)


def test_what_is_done_is_not_done_again_and_a_failure_is_gone_on_from(
    tmp_path: Path, calls: list[str]
) -> None:
    stages = {"cloned": (f"measure {tmp_path}/cloned 6", "break"), "end": (f"measure {tmp_path}/end 9",)}
    for _ in range(2):
        with pytest.raises(RobopolicyError, match="breaks"):
            run_pipeline(configured(tmp_path, stages=stages))
    assert [line.split()[0] for line in calls] == ["measure", "break", "break"]
    run_pipeline(configured(tmp_path, stages={**stages, "cloned": stages["cloned"][:1]}))
    assert len(calls) == 4


def test_it_stops_where_it_is_told(tmp_path: Path, calls: list[str]) -> None:
    assert len(run_pipeline(configured(tmp_path, until="practised"))) == 2
    with pytest.raises(ConfigError, match="Did you mean 'deployed'"):
        configured(tmp_path, until="deploy")


def test_a_stage_that_measures_nothing_is_named(tmp_path: Path, calls: list[str]) -> None:
    with pytest.raises(RobopolicyError, match="empty has neither"):
        run_pipeline(configured(tmp_path, stages={"empty": ()}))


def test_a_table_that_is_there_already_keeps_its_stamp(
    tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "stamp", lambda: {"commit": "first"})
    run_pipeline(configured(tmp_path))
    monkeypatch.setattr(pipeline, "stamp", lambda: {"commit": "second"})
    run_pipeline(configured(tmp_path, until="cloned"))
    found = json.loads((tmp_path / "pipeline.json").read_text())
    assert (found["commit"], len(found["stages"])) == ("first", 3)
    stages = {**configured(tmp_path).stages, "cloned": (f"measure {tmp_path}/cloned 7",)}
    run_pipeline(configured(tmp_path, stages=stages))
    assert json.loads((tmp_path / "pipeline.json").read_text())["commit"] == "second"


def test_there_is_a_figure_and_a_word_about_missing_films(
    tmp_path: Path, calls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run_pipeline(configured(tmp_path))
    assert (tmp_path / "stages.png").stat().st_size > 1000
    assert "no stage has left a film" in capsys.readouterr().out


def test_the_results_page_has_table_and_figure(tmp_path: Path, calls: list[str]) -> None:
    run_pipeline(configured(tmp_path / "out", results=str(tmp_path / "results" / "pipeline" / "t.json")))
    write_page(Plan(sections=()), {}, tmp_path / "docs" / "results.md", tmp_path / "results")
    page = (tmp_path / "docs" / "results.md").read_text()
    assert "| practised | 90% [" in page
    assert "(one_checkpoint_through_everything_t.png)" in page
    assert (tmp_path / "docs" / "one_checkpoint_through_everything_t.png").stat().st_size > 1000


@pytest.mark.parametrize("stages", options("stages"))
def test_the_shipped_stages_are_commands_that_compose(stages: str) -> None:
    for line in _lines(compose("pipeline", [f"stages={stages}"])["stages"]):
        script, *words = line.split()
        if script == "-m":
            assert callable(importlib.import_module(words[0]).main)
        else:
            compose(script.removesuffix(".py"), words)


@pytest.mark.slow
@pytest.mark.sim
def test_everything_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped stages with few episodes and steps; a second run finds everything done."""
    pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")
    pytest.importorskip("websockets", reason="serving is the extra robopolicy[serving]")
    monkeypatch.setattr("sys.argv", [str(Path(__file__).parents[2] / "scripts" / "pipeline.py")])
    words = yaml.safe_load(Path(__file__).with_name("pipeline_miniature.yaml").read_text())
    out, common = tmp_path / "out", [f"out={tmp_path / 'out'}", "episodes=2"]
    for stage, lines in compose("pipeline", common)["stages"].items():
        smaller = [" ".join([line, *(words[key] for key in words if key in line.split())]) for line in lines]
        common.append(f"stages.{stage}=[{','.join(map(repr, smaller))}]")
    run("pipeline", *common)
    rows = {row["stage"]: row for row in json.loads((out / "pipeline.json").read_text())["stages"]}
    assert list(rows) == ["cloned", "imagined", "practised", "guided", "deployed"]
    assert {row["episodes"] for row in rows.values()} == {2}
    assert [row["recorded_episodes"] for row in rows.values()] == [4, 4, 0, 4, 0]
    assert [row["practised_steps"] > 0 for row in rows.values()] == [False, True, True, False, False]
    assert [row["imagined"] for row in rows.values()] == [False, True, False, False, False]
    assert all(row["gain"] is not None for row in rows.values() if row["stage"] != "cloned")
    wire = json.loads((out / "deployed" / "wire.json").read_text())["conditions"]["as is"]
    assert wire["settings"]["simulator"] == {"task": "lift_hard"}
    assert wire["settings"]["steer"]["name"] == "value"
    assert wire["minus_in_simulator"]["pairs"] == 2
    assert filmed_seeds(out / "guided") == [3_000_000]
    assert filmed_seeds(out / "deployed") == [3_000_000, 3_000_001]
    assert (out / "stages.png").stat().st_size > 1000
    for stage in ("cloned/run", "imagined/run/best", "practised/run/best"):
        assert_served(out / stage)
    before = [(out / name).read_bytes() for name in ("pipeline.json", "journal.json", "stages.mp4")]
    run("pipeline", *common)
    assert [(out / n).read_bytes() for n in ("pipeline.json", "journal.json", "stages.mp4")] == before


def _lines(stages: Mapping[str, Sequence[str]]) -> list[str]:
    return [line for lines in stages.values() for line in lines]


def assert_served(checkpoint: Path) -> None:
    """Behind a server it makes what it makes here."""
    from robopolicy.serving.client import PolicyClient
    from robopolicy.serving.policy import ServedPolicy
    from robopolicy.serving.server import running

    policy = load(checkpoint)
    seen = blank_observation(policy)
    with running(ServedPolicy(policy)) as address, PolicyClient(address) as client:
        served = client.sample(seen, seeds=(3,)).actions
    mine = policy.sample(seen, generator=[torch.Generator().manual_seed(3)])
    np.testing.assert_array_equal(served, mine.actions)
