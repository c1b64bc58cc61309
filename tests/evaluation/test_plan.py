from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from robopolicy.data.merge import MergeConfig, merge
from robopolicy.errors import DataError
from robopolicy.evaluation.collect import collect
from robopolicy.evaluation.plan import RunPlanConfig, run_plan
from robopolicy.evaluation.results import read_plan, read_results
from robopolicy.evaluation.tables import write_page
from robopolicy.rollout import ExpertActor
from tests.toy_env import toy_task

SETTINGS = ["trainer.steps=3", "trainer.batch_size=8", "policy.network.width=16", "policy.network.blocks=1"]


def plan(directory: Path, seeds: list[int], **more: object) -> RunPlanConfig:
    row = {"task": ["lift"], "policy": "diffusion", "demonstrations": [2], "seeds": seeds, **more}
    sections = [{"title": "Tiny", "rows": [{**row, "settings": SETTINGS}]}]
    (directory / "plan.yaml").write_text(yaml.safe_dump({"sections": sections}))
    return RunPlanConfig(
        plan=str(directory / "plan.yaml"), results=str(directory / "results"), episodes=2, lanes=2
    )


@pytest.mark.sim
def test_cells_are_run_once_and_land_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = plan(tmp_path, seeds=[0, 1])
    target = tmp_path / "results/lift/diffusion/n2/seed1.json"
    target.parent.mkdir(parents=True)
    target.with_suffix(".claim").write_text(str(os.getpid()))  # another process has this one
    assert run_plan(config) == (1, 1)
    assert run_plan(config) == (0, 1)
    (result,) = read_results(config.results).values()
    assert result["config"]["trainer"]["steps"] == 3
    assert result["config"]["demonstrations"] == 2
    assert [row["seed"] for row in result["evaluation"]["episodes"]] == [3_000_000, 3_000_001]
    write_page(read_plan(config.plan), read_results(config.results), tmp_path / "results.md")
    assert "1 of 2 planned cells are run" in (tmp_path / "results.md").read_text()


@pytest.mark.slow
@pytest.mark.sim
def test_the_same_weights_are_evaluated_in_several_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = plan(tmp_path, seeds=[0], evaluations={"": [], "short": ["task=lift", "task.horizon=20"]})
    assert run_plan(config) == (2, 0)
    results = read_results(config.results)
    assert sorted(cell.file.as_posix() for cell in results) == [
        "lift/diffusion/n2/seed0.json", "lift/diffusion/n2/short/seed0.json",
    ]  # fmt: skip
    steps = {cell.evaluation: r["evaluation"]["episodes"][0]["steps"] for cell, r in results.items()}
    assert steps["short"] == 20 < steps[""]
    assert len({r["wall_seconds"]["train"] for r in results.values()}) == 1
    write_page(read_plan(config.plan), results, tmp_path / "results.md")
    assert "| lift | diffusion, short | 2 |" in (tmp_path / "results.md").read_text()


@pytest.mark.slow
@pytest.mark.sim
def test_a_row_may_evaluate_what_another_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"task": ["lift"], "policy": "diffusion", "demonstrations": [2], "seeds": [0], "settings": SETTINGS}
    pushed = {**row, "variant": "pushed", "trained": "plain", "evaluations": {"": ["perturb=push"]}}
    sections = [{"title": "Tiny", "rows": [{**row, "variant": "plain"}, pushed]}]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"sections": sections}))
    assert run_plan(RunPlanConfig(plan="plan.yaml", results="results", episodes=2, lanes=2)) == (2, 0)
    assert [path.name for path in (tmp_path / "outputs/lift/diffusion").iterdir()] == ["plainn2"]
    plain, other = (read_results("results")[cell] for cell in read_plan("plan.yaml").cells())
    assert plain["wall_seconds"]["train"] == other["wall_seconds"]["train"]


@pytest.mark.slow
@pytest.mark.sim
def test_a_base_that_is_not_there_is_trained_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"task": ["lift"], "policy": "diffusion", "demonstrations": [2], "seeds": [0]}
    base = {**row, "variant": "hand", "settings": [*SETTINGS, "observations=[robot0_eef_pos]"]}
    named = "policy.base=outputs/${task.name}/diffusion/handn${demonstrations}/seed${seed}"
    joint = {**row, "policy": "factorized", "settings": [*SETTINGS, named]}
    sections = [{"title": "Tiny", "rows": [base, joint]}]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"sections": sections}))
    config = RunPlanConfig(plan="plan.yaml", results="results", only="factorized", episodes=2, lanes=2)
    assert run_plan(config) == (1, 0)
    assert [cell.policy for cell in read_results("results")] == ["factorized"]
    assert (tmp_path / "outputs/lift/diffusion/handn2/seed0/checkpoints").is_dir()


def test_what_a_policy_recorded_is_taken_as_it_is(tmp_path: Path) -> None:
    from robopolicy.evaluation.plan import _recorded

    assert not _recorded(tmp_path / "none.zarr", 3)
    settings = {"episodes": 3, "workers": 0, "progress": False}
    collect(toy_task(), tmp_path / "expert.zarr", **settings)
    assert not _recorded(tmp_path / "expert.zarr", 3)  # more can be collected
    collect(toy_task(horizon=31), tmp_path / "other.zarr", offset=900, **settings)
    both = (str(tmp_path / "expert.zarr"), str(tmp_path / "other.zarr"))
    merge(MergeConfig(data=both, out=str(tmp_path / "both.zarr")))
    assert _recorded(tmp_path / "both.zarr", 6)
    collect(toy_task(), tmp_path / "policy.zarr", actor=ExpertActor(4), origin="outputs/sac", **settings)
    assert _recorded(tmp_path / "policy.zarr", 3)
    with pytest.raises(DataError, match=r"has 3 episodes of outputs/sac; the plan wants 4"):
        _recorded(tmp_path / "policy.zarr", 4)


def test_a_claim_left_by_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    from robopolicy.evaluation.plan import _claim

    path = tmp_path / "cell.claim"
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    path.write_text(dead.stdout.decode())
    with _claim(path) as mine, _claim(path) as again:
        assert mine
        assert not again
        assert json.loads(path.read_text()) == os.getpid()
    assert not path.exists()
