from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from robopolicy.errors import ConfigError, DataError
from robopolicy.evaluation.evaluate import EpisodeRow, Evaluation, Measured
from robopolicy.evaluation.machine import commit, describe, machine, versions
from robopolicy.evaluation.plan import _filled
from robopolicy.evaluation.results import Cell, read_plan, read_results, successes, write_result
from robopolicy.evaluation.tables import write_page
from tests.toy_env import toy_task

PLAN = """
sections:
  - title: Main table
    note: What it says.
    rows:
      - {task: [lift, can], policy: diffusion, demonstrations: [200], seeds: [0, 1], settings: [a.b=9]}
  - title: More data
    table: demonstrations
    rows:
      - {task: [can], policy: diffusion, demonstrations: [10, 200], seeds: [0, 1]}
"""


def _evaluation(successes: int, episodes: int = 50) -> Evaluation:
    rows = tuple(
        EpisodeRow(
            index=i, seed=3_000_000 + i, success=i < successes, success_final=i < successes - 1, steps=30,
            first_success=20 if i < successes else -1, total_reward=1.0,
        )
        for i in range(episodes)
    )  # fmt: skip
    return Evaluation(task=toy_task(), block="report", rows=rows, lanes=10, workers=2, wall_seconds=25.0)


def _write(root: Path, cell: Cell, count: int) -> None:
    write_result(
        root / cell.file, cell, Measured(evaluation=_evaluation(count)), config={"seed": cell.seed},
        wall_seconds={"train": 12.0},
    )  # fmt: skip


def _plan(tmp_path: Path, text: str = PLAN) -> Path:
    (tmp_path / "plan.yaml").write_text(text)
    return tmp_path / "plan.yaml"


def test_a_plan_lists_each_cell_once_in_order(tmp_path: Path) -> None:
    cells = read_plan(_plan(tmp_path)).cells()
    assert [(c.task, c.demonstrations, c.seed) for c in cells] == [
        ("lift", 200, 0), ("lift", 200, 1), ("can", 200, 0), ("can", 200, 1), ("can", 10, 0), ("can", 10, 1),
    ]  # fmt: skip
    assert cells[0].settings == ("a.b=9",)
    assert str(cells[0].file) == "lift/diffusion/n200/seed0.json"


def test_rows_share_words_by_alias(tmp_path: Path) -> None:
    plan = """
sections:
  - title: x
    rows:
      - &first
        {task: [lift], policy: diffusion, demonstrations: [2], seeds: [0], settings: [&all [a=1, b=2], c=3],
         evaluations: {"": [], noisy: [[perturb=noise], perturb.level=1]}}
      - {<<: *first, variant: other, settings: [*all, "d=[4,5]"]}
"""
    cells = read_plan(_plan(tmp_path, plan)).cells()
    assert [c.settings for c in cells] == [("a=1", "b=2", "c=3")] * 2 + [("a=1", "b=2", "d=[4,5]")] * 2
    assert cells[1].evaluation_settings == ("perturb=noise", "perturb.level=1")


@pytest.mark.parametrize(
    "text, message",
    [
        ("sections: [{title: x, rowz: []}]", "rowz.*Did you mean 'rows'"),
        ("sections: [{title: x, table: pie, rows: []}]", "demonstrations, refinement, returns, success"),
        (PLAN.replace("[lift, can]", "lift"), "task is a list"),
        (PLAN.replace("seeds: [0, 1]}", "seeds: []}"), "seeds is a list"),
        ("sections:\n  - title: one: two", r"plan.yaml is not YAML(.|\n)*line 2"),
    ],
)
def test_a_wrong_plan_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_plan(_plan(tmp_path, text))
    with pytest.raises(ConfigError, match="no plan"):
        read_plan(tmp_path / "nothing.yaml")


@pytest.mark.parametrize(("trained", "settings"), [("wid", "a=1"), ("wide", "a=2")])
def test_what_another_row_trains_must_be_there(tmp_path: Path, trained: str, settings: str) -> None:
    row = "{task: [lift], policy: diffusion, demonstrations: [2], seeds: [0]"
    plan = f"""
    sections:
      - title: One
        rows:
          - {row}, variant: wide, settings: [a=1]}}
          - {row}, variant: pushed, trained: %s, settings: [%s]}}
    """
    assert len(read_plan(_plan(tmp_path, plan % ("wide", "a=1"))).cells()) == 2
    with pytest.raises(ConfigError, match=f"diffusion-pushed/n2/seed0.json: .*'{trained}'"):
        read_plan(_plan(tmp_path, plan % (trained, settings)))


def test_a_result_has_what_is_needed_to_judge_it(tmp_path: Path) -> None:
    cell = Cell(task="lift", policy="diffusion", demonstrations=200, seed=1)
    _write(tmp_path, cell, 48)
    result = read_results(tmp_path)[cell]
    assert sum(successes(result)) == 48
    assert sum(successes(result, "success_final")) == 47
    assert {"config", "commit", "dirty", "machine", "versions", "date", "wall_seconds"} <= result.keys()
    assert result["wall_seconds"] == {"train": 12.0, "evaluate": 25.0}
    assert not list(tmp_path.rglob("*.partial"))


def test_damaged_double_and_newer_files_are_named(tmp_path: Path) -> None:
    cell = Cell(task="lift", policy="diffusion", demonstrations=200, seed=1)
    _write(tmp_path, cell, 48)
    text = (tmp_path / cell.file).read_text()
    for name, content, message in (
        ("copy.json", text, "copy.json and .*seed1.json describe|seed1.json and .*copy.json describe"),
        ("half.json", text[: len(text) // 2], "half.json is not a result file"),
        ("new.json", json.dumps({"format": 99}), "format 99"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=message):
            read_results(tmp_path)
        (tmp_path / name).unlink()


def test_the_page_shows_every_seed_and_what_was_not_run(tmp_path: Path) -> None:
    plan = read_plan(_plan(tmp_path))
    for cell, count in zip(plan.cells()[:3], (50, 45, 30), strict=True):
        _write(tmp_path / "results", cell, count)
    write_page(plan, read_results(tmp_path / "results"), tmp_path / "docs" / "results.md")
    page = (tmp_path / "docs" / "results.md").read_text()
    lift = next(line for line in page.splitlines() if line.startswith("| lift"))
    can = next(line for line in page.splitlines() if line.startswith("| can"))
    assert "| 50/50 | 45/50 | 95.0% [" in lift
    assert "| 30/50 | not run | 60.0% [" in can
    assert "(1 of 2 seeds)" in can
    assert "| can | diffusion | not run | 60.0% [" in page
    assert "3 of 6 planned cells are run." in page
    assert "What it says." in page
    assert (tmp_path / "docs" / "more_data.png").is_file()


def test_a_page_without_results_says_so_everywhere(tmp_path: Path) -> None:
    write_page(read_plan(_plan(tmp_path)), {}, tmp_path / "results.md")
    page = (tmp_path / "results.md").read_text()
    assert "0 of 6 planned cells are run." in page
    assert page.count("not run") > 10
    assert "% [" not in page
    assert not list(tmp_path.glob("*.png"))


def test_facts_about_this_machine() -> None:
    found = machine()
    assert found["cores"] >= 1
    assert found["memory_gb"] > 0
    assert found["cpu"] in describe(found)
    assert versions()["python"].startswith("3.")
    assert set(commit()) == {"commit", "dirty"}


def test_refinement_is_paired_with_its_base(tmp_path: Path) -> None:
    plan = """
sections:
  - title: Refined
    table: refinement
    rows:
      - {task: [lift], policy: diffusion, demonstrations: [10], seeds: [0], keep: true}
      - {task: [lift], policy: diffusion, demonstrations: [10], seeds: [0, 1], method: dppo}
      - {task: [lift], policy: diffusion, demonstrations: [10], seeds: [0], method: dsrl}
      - task: [can]
        policy: diffusion
        demonstrations: [10]
        seeds: [0]
        method: dppo
        settings: [steps=2_000_000]
"""
    base, *refined, missing, other = read_plan(_plan(tmp_path, plan)).cells()
    assert refined[1].base == base == refined[0].base
    assert base.keep
    assert refined[1].file.as_posix() == "lift/diffusion/n10/dppo/seed1.json"
    assert missing.base.kept.as_posix() == "bases/lift/diffusion/n10/seed0"
    _write(tmp_path, base, 20)
    record = {
        "env_steps": 200_000,
        "steps_to": {"80%": 50_000, "90%": None},
        "minutes_per_million": {"env": 10.0, "sampling": 3.0, "update": 5.0},
        "curve": {"steps": [0, 50_000], "success": [0.4, 0.8], "return": [10.0, 20.0]},
    }
    for cell in refined:
        if cell.seed == 1:
            record = {**record, "steps_to": {"80%": None, "90%": None}}
        write_result(
            tmp_path / cell.file,
            cell,
            Measured(evaluation=_evaluation(40)),
            config={},
            wall_seconds={},
            refinement=record,
        )
    write_page(read_plan(tmp_path / "plan.yaml"), read_results(tmp_path), tmp_path / "results.md")
    page = (tmp_path / "results.md").read_text()
    assert "| lift | dppo | 20/50 | 40/50, 40/50 | 80.0%" in page
    assert "better (+40.0%" in page
    assert "| 50k/not reached; none reached | 200k, 200k | 10, 3, 5 |" in page
    assert "| lift | dsrl | 20/50 | not run | not run |  |  |  |  |" in page
    assert other.settings == ("steps=2_000_000",)
    assert "| about 0.6 h a seed at 18 minutes a million steps, of other tasks |" in page
    assert (tmp_path / "refined.png").stat().st_size > 1000
    _plan(tmp_path, plan.replace("table: refinement", "table: returns"))
    write_page(read_plan(tmp_path / "plan.yaml"), read_results(tmp_path), tmp_path / "results.md")
    page = (tmp_path / "results.md").read_text()
    assert re.search(
        r"\| lift \| dppo \| 1 \| (\d+) \[\d+, \d+\] \| (\d+) \[.*\] \| 200k \| 10, 3, 5 \|", page
    )
    assert "| lift | dsrl | 0 |" in page
    assert "not run" in page


def test_policies_stand_side_by_side_with_routes_and_costs(tmp_path: Path) -> None:
    plan = """
sections:
  - title: Compared
    table: comparison
    rows:
      - task: [avoidance]
        policy: diffusion
        demonstrations: [9]
        seeds: [0, 1]
        evaluations: {"": [], "3 steps": [], descent: []}
"""
    (tmp_path / "plan.yaml").write_text(plan)
    cells = read_plan(tmp_path / "plan.yaml").cells()
    for cell, entropy in zip(cells[:2], (0.5, 0.7), strict=True):
        measured = Measured(
            evaluation=_evaluation(40),
            sampling={"parameters": 1_500_000, "calls": 16, "ms": 5.0 + cell.seed},
            coverage={
                "entropy": entropy,
                "expert_entropy": 0.88,
                "routes_found": 20 + cell.seed,
                "possible": 24,
            },
        )
        write_result(tmp_path / cell.file, cell, measured, config={}, wall_seconds={"train": 120.0})
    for cell, mean in zip(cells[4:], (18.0, 19.0), strict=True):
        cost = {"parameters": 1_500_000, "calls": 20, "ms": 5.0, "mean_calls": mean, "most_calls": 20}
        measured = Measured(evaluation=_evaluation(40), sampling=cost)
        write_result(tmp_path / cell.file, cell, measured, config={}, wall_seconds={})
    write_page(read_plan(tmp_path / "plan.yaml"), read_results(tmp_path), tmp_path / "results.md")
    page = (tmp_path / "results.md").read_text()
    assert "| 18.5, at most 20 | 5.0 |" in page
    assert "| avoidance | diffusion | 40/50, 40/50 | 80.0%" in page
    assert "| 0.60 (0.88) | 20 to 21 of 24 | 16 | 5.5 | 2 min | 1.50 M |" in page
    assert "| avoidance | diffusion, 3 steps | not run, not run | not run |" in page


def test_policies_stand_beside_the_first_under_each_condition(tmp_path: Path) -> None:
    plan = """
sections:
  - title: Disturbed
    table: conditions
    rows:
      - &joint
        task: [push]
        policy: diffusion
        demonstrations: [10, 50]
        seeds: [0]
        evaluations: {"": [], noise: [perturb=noise], averaged: ["steer.others=[n${demonstrations}/${seed}]"]}
      - {<<: *joint, policy: factorized, evaluations: {"": [], noise: [perturb=noise]}}
"""
    (tmp_path / "plan.yaml").write_text(plan)
    cells = read_plan(tmp_path / "plan.yaml").cells()
    assert [_filled(word, cell) for cell in cells[5:6] for word in cell.evaluation_settings] == [
        "steer.others=[n50/0]"
    ]
    succeeded = {"diffusion": 30, "factorized": 40}
    for cell in cells:
        if cell.demonstrations == 10 and cell.evaluation != "averaged":
            measured = Measured(evaluation=_evaluation(succeeded[cell.policy]))
            write_result(tmp_path / cell.file, cell, measured, config={}, wall_seconds={})
    write_page(read_plan(tmp_path / "plan.yaml"), read_results(tmp_path), tmp_path / "results.md")
    page = (tmp_path / "results.md").read_text()
    assert "| Task | Demonstrations | Policy | Parameters | nominal | noise | averaged |" in page
    assert "| push | 10 | diffusion |  | 60 | 60 | not run |" in page
    assert "| push | 10 | factorized |  | 80 (+20 [" in page
    assert "| push | 50 | factorized |  | not run | not run |  |" in page
