from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from robopolicy.errors import ConfigError, DataError
from robopolicy.evaluation.check_tables import check_sections
from robopolicy.evaluation.compare import CompareConfig, compare, short_names
from robopolicy.evaluation.evaluate import EpisodeRow, Evaluation
from tests.commands import run
from tests.toy_env import toy_task


def evaluation(directory: Path, wins: list[bool], *, first: int = 7, name: str = "toy") -> str:
    rows = tuple(
        EpisodeRow(
            index=i, seed=first + i, success=won, success_final=won, steps=9, first_success=4 if won else -1,
            total_reward=0.0,
        )
        for i, won in enumerate(wins)
    )  # fmt: skip
    task = dataclasses.replace(toy_task(), name=name)
    Evaluation(task=task, block="report", rows=rows, lanes=1, workers=0, wall_seconds=1.0).save(directory)
    return str(directory)


@pytest.fixture
def three(tmp_path: Path) -> tuple[str, ...]:
    """Three runs: always, half of the time, never."""
    wins = {"always": [True] * 20, "half": [True, False] * 10, "never": [False] * 20}
    return tuple(
        evaluation(tmp_path / n / "run" / "evaluation", w)[: -len("/evaluation")] for n, w in wins.items()
    )


def test_the_order_is_found(three: tuple[str, ...]) -> None:
    found = compare(CompareConfig(evaluations=three))["policies"]
    assert list(found) == ["always", "half", "never"]
    assert [row["success"]["value"] for row in found.values()] == [1.0, 0.5, 0.0]
    assert found["half"]["difference"]["interval"]["value"] == -0.5
    assert found["half"]["difference"]["verdict"] == "worse"
    strengths = [row["strength"]["value"] for row in found.values()]
    assert strengths == sorted(strengths, reverse=True)


@pytest.mark.parametrize(("order", "violation"), [((0, 1, 2), 0.0), ((2, 1, 0), 5 / 6)])
def test_proxies_that_rank_alike_and_the_other_way(
    three: tuple[str, ...], order: tuple[int, ...], violation: float
) -> None:
    proxies = tuple(three[i] for i in order)
    found = compare(CompareConfig(evaluations=three, proxies=proxies))["agreement"]
    assert found["mmrv"]["value"] == pytest.approx(violation)
    assert found["spearman"]["value"] == pytest.approx(1.0 if violation == 0 else -1.0)


def test_the_command_prints_and_writes(
    three: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made" / "compared_toy.json"
    run("compare", f"evaluations=[{','.join(three)}]", f"proxies=[{','.join(three)}]", f"out={out}")
    printed = capsys.readouterr().out
    for fragment in ("| always |", "Against always", "-50.0%", "mmrv"):
        assert fragment in printed
    found = json.loads(out.read_text())
    assert {"task", "block", "episodes", "policies", "agreement", "commit", "machine"} <= set(found)
    page = check_sections(out.parent)
    assert f"of {found['task']}:" in page
    for line in printed.splitlines()[:5]:
        assert line in page


def test_names_are_what_paths_do_not_share() -> None:
    assert short_names(["a/x/s0/report", "a/y/s1/report"]) == ["x/s0", "y/s1"]
    assert short_names(["a", "a/b"]) == ["a", "b"]
    assert short_names(["a/r", "b/a/r"]) == ["a/r", "b"]


def test_what_cannot_be_compared(three: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two evaluations"):
        CompareConfig(evaluations=three[:1])
    with pytest.raises(ConfigError, match="3 evaluations need as many proxies, got 1"):
        CompareConfig(evaluations=three, proxies=three[:1])
    with pytest.raises(ConfigError, match="twice"):
        compare(CompareConfig(evaluations=(three[0], three[0])))
    other = evaluation(tmp_path / "others", [True] * 20, first=900)
    with pytest.raises(DataError, match=r"seeds 7\.\.26.*seeds 900\.\.919"):
        compare(CompareConfig(evaluations=(three[0], other)))
    other = evaluation(tmp_path / "another", [True] * 20, name="else")
    with pytest.raises(DataError, match=r"on toy, .* on else"):
        compare(CompareConfig(evaluations=(three[0], other)))
    with pytest.raises(DataError, match="does not exist"):
        compare(CompareConfig(evaluations=(three[0], str(tmp_path / "nowhere"))))
