"""Tables of the shipped measurements, and of small made-up ones."""

from __future__ import annotations

import json
import re
from pathlib import Path

from robopolicy.evaluation.check_tables import SECTIONS, check_sections

SHIPPED = Path(__file__).parents[2] / "results" / "checks"


def test_every_shipped_measurement_has_its_table() -> None:
    page = check_sections(SHIPPED)
    names = [path.stem for path in SHIPPED.glob("*.json")]
    assert names
    for name in names:
        assert f"`checks/{name}.json`" in page, name
        assert any(name.startswith(prefix) for prefix in SECTIONS), f"{name} has no table"


def test_numbers_are_those_of_the_file(tmp_path: Path) -> None:
    found = {
        "count": 20,
        "success": {"value": 0.75, "low": 0.5, "high": 0.9},
        "tripped": 1,
        "inference_ms": 12.4,
        "minus_in_simulator": {"value": -0.25, "low": -0.43, "high": -0.08},
        "last_run": {"commit": "abcdef012345", "dirty": False, "date": "2026-01-02T03:04:05"},
    }
    (tmp_path / "wire_lift.json").write_text(json.dumps({"conditions": {"late": found}}))
    page = check_sections(tmp_path)
    assert "| lift | late | 20 | 75.0% [50.0%, 90.0%] | -25.0 [-43.0, -8.0] | - | 12 | 1 |" in page
    assert "(abcdef0, 2026-01-02)" in page


def test_transports_have_a_line_each(tmp_path: Path) -> None:
    found = {"sent": 1000, "lost": 2, "round_trip_ms": {"p50": 0.51, "p99": 3.456}}
    values = {"transports": {"dds": found, "zenoh": {**found, "lost": 0}}}
    (tmp_path / "transports.json").write_text(json.dumps(values))
    page = check_sections(tmp_path)
    assert "| dds | 1,000 (2) | 0.51 / 3.46 |" in page
    assert "| zenoh | 1,000 (0) |" in page


def test_signals_are_asked_three_questions(tmp_path: Path) -> None:
    told = {"energy": {"value": 0.61, "low": 0.5, "high": 0.7}}
    values = {"task": "avoidance", "policy": "beso", "success": {"value": 0.34}, "biased readings": told}
    values |= {"failing, matched times": "nobody failed", "failing, any time": told}
    (tmp_path / "energy_signal_avoidance_beso.json").write_text(json.dumps(values))
    page = check_sections(tmp_path)
    assert "| avoidance | beso (34%) | biased readings | 0.61 [0.50, 0.70] |" in page
    assert "| failing, matched times | nobody failed |" in page


def test_retries_have_a_line_for_each_policy(tmp_path: Path) -> None:
    share = {"count": 10, "of": 20, "value": 0.5, "low": 0.4, "high": 0.6}
    row = {"training seeds": 2, "attempts": 1.26, "success": share, "first attempt failed": share}
    row |= {"tried again": share, "then succeeded": {"count": 0, "of": 0}}
    for name, perturb in (("square", None), ("square_push", {"name": "push", "level": 0.5})):
        values = {"task": "square", "perturb": perturb, "policies": {"diffusion": row}}
        (tmp_path / f"retries_{name}.json").write_text(json.dumps(values))
    page = check_sections(tmp_path)
    cells = " | ".join(["50.0% [40.0%, 60.0%] of 20"] * 3)
    assert f"| square | - | diffusion | 2 | {cells} | - | 1.3 |" in page
    assert f"| square | push 0.5 | diffusion | 2 | {cells} | - | 1.3 |" in page


def test_what_values_are_worth(tmp_path: Path) -> None:
    rate, gap = {"value": 0.5, "low": 0.4, "high": 0.6}, {"value": 0.13, "low": -0.01, "high": 0.27}
    steered = {"policy": {"success": rate}, "greedy": {"success": rate, "difference": {"interval": gap}}}
    measured = {"rank within states": 0.3, "random": 0.4, "greedy": 0.45, "oracle, held out": 0.5}
    ranks = {name: {"value": value, "low": 0.1, "high": 0.5} for name, value in measured.items()}
    cost = {"policy": {"calls": 10, "ms": 3.21}, "greedy": {"calls": 10, "ms": 5.0}}
    values = {"ranks": ranks, "steered": steered, "cost": cost, "config": {"candidates": 16}}
    (tmp_path / "values_push_iql.json").write_text(json.dumps(values))
    (tmp_path / "values_can_iql.json").write_text(json.dumps({"ranks": None}))
    page = check_sections(tmp_path)
    first = (
        "| push_iql | 0.30 [0.10, 0.50] | 0.400 / 0.450 / 0.500 | policy | 50.0% [40.0%, 60.0%] |  | 10 x 1 |"
    )
    assert f"{first} 3.2 |" in page
    assert "|  |  |  | greedy | 50.0% [40.0%, 60.0%] | +13.0 [-1.0, +27.0] | 10 x 16 | 5.0 |" in page
    assert "| can_iql | - | - | - | - |  |  |  |" in page


def test_studies_that_differ_in_the_critic_alone_stand_together(tmp_path: Path) -> None:
    def row(rate: float, gain: float) -> dict[str, object]:
        difference = {"interval": {"value": gain, "low": gain, "high": gain}, "verdict": "better"}
        return {"success": {"value": rate, "low": rate, "high": rate}, "difference": difference}

    config = {"checkpoint": "gaussian", "candidates": 16, "beta": 0.1, "block": "report"}
    for seed, rate in enumerate((0.42, 0.41)):
        steered = {"policy": row(0.11, 0.0), "greedy": row(rate, rate - 0.11)}
        values = {"task": "push", "config": config, "value": {"name": "iql"}, "steered": steered}
        values |= {"ledgers": {"greedy": {"spread": 0.12 + 0.01 * seed}}}
        (tmp_path / f"values_push_iql{seed}.json").write_text(json.dumps(values))
    spoiled = {**values, "learned": {"corrupt": 0.3}}
    (tmp_path / "values_push_iql_spoiled.json").write_text(json.dumps(spoiled))
    page = check_sections(tmp_path)
    assert "| push_iql0, push_iql1 | 0.125 | greedy | 42, 41 | +30.5 | better, better |" in page
    assert page.count("better, better") == 1


def test_comparisons_of_the_same_ways_are_one_table(tmp_path: Path) -> None:
    def policies(*rates: float) -> dict[str, object]:
        number = {"low": 0.0, "high": 1.0}
        return {
            name: {
                "success": {"value": rate, **number},
                "difference": {"interval": {"value": rate - rates[0], "low": -0.05, "high": 0.3}},
                "strength": {"value": 0.0, **number},
            }
            for name, rate in zip(("alone", "best of 4", "best of 16"), rates, strict=False)
        }

    for task, rates in {"reach": (0.5, 0.6, 0.7), "soccer": (0.3, 0.3, 0.5), "push": (0.4, 0.5)}.items():
        values = {"task": task, "block": "report", "episodes": 100, "policies": policies(*rates)}
        (tmp_path / f"compared_ten_{task}.json").write_text(json.dumps(values))
    page = check_sections(tmp_path)
    assert "| Episodes (block, number) | alone | best of 4 | best of 16 |" in page
    gain = "(+20.0 [-5.0, +30.0])"
    assert f"| ten_reach (report, 100) | 50 | 60 (+10.0 [-5.0, +30.0]) | 70 {gain} |" in page
    assert f"| ten_soccer (report, 100) | 30 | 30 (+0.0 [-5.0, +30.0]) | 50 {gain} |" in page
    assert "ten_push, 100 episodes (report) of push:" in page


def test_compositions_have_a_line_each(tmp_path: Path) -> None:
    row = {"success": {"value": 0.5, "low": 0.4, "high": 0.6}, "routes": 7, "entropy": 0.61}
    (tmp_path / "composition_avoidance.json").write_text(
        json.dumps({"rows": [{"label": "first", "evaluations": 10, **row}]})
    )
    assert "| first | 50.0% [40.0%, 60.0%] | 7 | 0.61 | 10 |" in check_sections(tmp_path)


def test_noise_that_stays_has_a_column_for_each_bound(tmp_path: Path) -> None:
    rate = {"value": 0.5, "low": 0.4, "high": 0.6}
    (tmp_path / "kept_noise_can.json").write_text(json.dumps({"success": {"fresh": rate, "0.5": rate}}))
    page = check_sections(tmp_path)
    assert "| Policy | fresh | within ±0.5 |" in page
    assert "| can | 50.0% [40.0%, 60.0%] | 50.0% [40.0%, 60.0%] |" in page


def test_runs_are_told_by_what_few_others_do(tmp_path: Path) -> None:
    def row(bound: float) -> dict[str, object]:
        settings = {"method.bound": bound, "method.gamma": 0.99}
        return {"settings": settings, "steps": [0, 20_046], "success": [0.62, 0.7], "episodes": 50}

    values = {"task": "can", "rows": [row(1.5), row(1.5), row(0.5)]}
    (tmp_path / "runs_dsrl_can.json").write_text(json.dumps(values))
    page = check_sections(tmp_path)
    assert "| can | bound=0.5 | 0k: 62, 20k: 70 | 50 |" in page
    assert page.count("| can | - | 0k: 62, 20k: 70 | 50 |") == 2


def test_what_has_no_table_is_named_all_the_same(tmp_path: Path) -> None:
    assert check_sections(tmp_path) == ""
    (tmp_path / "new.json").write_text("{}")
    assert "`checks/new.json` (unstamped)" in check_sections(tmp_path)


def test_practice_in_imagination_stands_beside_what_else_recordings_bring(tmp_path: Path) -> None:
    def stage(name: str, first: int) -> dict[str, object]:
        solved = {str(seed): seed < first for seed in range(20)}
        return {"stage": name, "recorded_episodes": 10, "solved": solved}

    for seed in (0, 1):
        stages = [stage("cloned", 8), stage("successes", 9), stage("values", 2), stage("imagined", 18 + seed)]
        settings = {"policy": "gaussian", "demonstrations": 50, "seed": seed}
        values = {"task": "soccer", "values": settings, "stages": stages}
        (tmp_path / f"recorded_soccer_gaussian_seed{seed}.json").write_text(json.dumps(values))
    begun = {**values, "task": "reach", "stages": stages[:2]}
    (tmp_path / "recorded_reach_gaussian_seed0.json").write_text(json.dumps(begun))
    page = check_sections(tmp_path)
    assert "| soccer | gaussian | 50 | 40 | 0% | 8/20 | 9/20, 9/20 | 2/20, 2/20 | 18/20, 19/20 |" in page
    assert "| better (+52.5%" in page
    assert re.search(r"\| successes: better \(\+47.5%[^|]*\| 1 \|", page)  # 19 of 20 at most
    assert "| reach | gaussian | 50 | 20 | 0% | 8/20 | 9/20 | not run | not run |  |  | 11 |" in page
