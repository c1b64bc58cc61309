from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import pytest
import torch
import yaml

from robopolicy.benchmark import BenchmarkConfig, controller, run_benchmark
from robopolicy.benchmark.beside_robosuite import WAYS
from robopolicy.benchmark.learning import SampleLoop, lift_sizes, random_store
from robopolicy.benchmark.steps import StepTimesConfig, run_step_times
from robopolicy.benchmark.timing import interleave, summary
from robopolicy.compose import compose
from robopolicy.data.windows import Windows
from robopolicy.device import bfloat16_suits
from robopolicy.errors import ConfigError
from robopolicy.evaluation.check_tables import check_sections
from robopolicy.evaluation.results import read_results
from robopolicy.registry import parse


def quick(tmp_path: Path, *overrides: str) -> BenchmarkConfig:
    small = ["seconds=0.02", "rounds=2", "networks=[mlp]", f"out={tmp_path}/benchmark"]
    composed = compose("benchmark", [*small, f"page={tmp_path}/page.md", *overrides])
    return parse(BenchmarkConfig, composed, "benchmark")


def test_alternatives_take_turns_and_slow_ones_are_spared() -> None:
    order: list[str] = []

    def slow() -> None:
        order.append("slow")
        time.sleep(0.03)

    alternatives = {"slow": slow, "fast": lambda: order.append("fast")}
    times = interleave(alternatives, seconds=0.02, rounds=4, calls=3)
    assert [len(found) for found in times["slow"]] == [1, 1]
    assert len(times["fast"]) == 4
    assert all(len(found) >= 3 for found in times["fast"])
    turns = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name]
    assert turns[:6] == ["slow", "fast"] * 3
    found = summary(times["slow"])
    assert found["calls"] == 2
    assert 30 <= found["min"] <= found["p50"] <= found["p99"]


def test_the_loop_over_samples_gives_the_windows_of_the_gather(tmp_path: Path) -> None:
    store = random_store(tmp_path / "random.zarr", lift_sizes(), episodes=3, steps=12)
    windows = Windows(
        store, obs_keys=list(store.spec.observations), obs_horizon=2, pred_horizon=16, action_horizon=8
    )
    index = torch.arange(len(windows))
    expected, found = windows.gather(index), SampleLoop(store).gather(index.tolist())
    torch.testing.assert_close(found.pop("action"), expected.action, rtol=0, atol=0)
    assert found.keys() == expected.observation.keys()
    for key, value in found.items():
        torch.testing.assert_close(value, expected.observation[key], rtol=0, atol=0)


@pytest.mark.slow
def test_parts_are_added_to_one_file_and_the_page_follows_it(tmp_path: Path) -> None:
    run_benchmark(quick(tmp_path, "what=training"))
    run_benchmark(quick(tmp_path, "what=windows"))
    kept = json.loads((tmp_path / "benchmark" / "cpu.json").read_text())
    assert {"training", "windows"} < kept.keys()
    for row in kept["training"]["rows"]:
        assert row["samples_per_s"]["max"] >= row["samples_per_s"]["median"] > 0
        assert sum(row["share"].values()) == pytest.approx(1)
    for part in ("training", "windows"):
        assert {"commit", "machine", "versions", "load_average", "wall_seconds", "config"} <= kept[
            part
        ].keys()
    page = (tmp_path / "page.md").read_text()
    assert "## Training" in page
    assert ("bfloat16" in page) == bfloat16_suits("cpu")
    assert "## Windows" in page
    assert "## Sampling" not in page
    assert read_results(tmp_path) == {}


@pytest.mark.slow
def test_families_of_policies_take_turns(tmp_path: Path) -> None:
    overrides = ["what=families", "policies=[gaussian,factorized]"]
    rows = run_benchmark(quick(tmp_path, *overrides))["families"]["rows"]
    assert [(row["policy"], row["batch"], row["calls"]) for row in rows] == [
        ("gaussian", 1, 1),
        ("gaussian", 256, 1),
        ("factorized", 1, 20),
        ("factorized", 256, 20),
    ]
    assert rows[2]["step_ms"]["p50"] > rows[0]["step_ms"]["p50"] > 0
    assert "| factorized | 7." in (tmp_path / "page.md").read_text()


@pytest.mark.slow
def test_a_server_is_measured_beside_calls_in_this_process(tmp_path: Path) -> None:
    rows = run_benchmark(quick(tmp_path, "what=serving"))["serving"]["rows"]
    assert [(row["policy"], row["clients"]) for row in rows] == [
        (policy, clients) for policy in ("gaussian", "diffusion") for clients in (0, 1, 8, 32)
    ]
    assert all(0 < row["ms"]["p50"] <= row["ms"]["p99"] and row["chunks_per_s"] > 0 for row in rows)
    assert "overhead_ms" in rows[1]
    assert 0 < rows[1]["outside_ms"]["p50"] < rows[1]["ms"]["p50"]
    assert "| gaussian | by 32 clients |" in (tmp_path / "page.md").read_text()


@pytest.mark.slow
@pytest.mark.sim
def test_environments_and_evaluation_are_measured(tmp_path: Path) -> None:
    overrides = ["tasks=[lift]", "workers=[1]", "episodes=1"]
    found = run_benchmark(quick(tmp_path, "what=environments", *overrides))["environments"]["rows"]
    assert [row["actor"] for row in found] == ["expert", "zero"]
    assert all(row["steps_per_s"]["median"] > 0 for row in found)
    (row,) = run_benchmark(quick(tmp_path, "what=evaluation", *overrides))["evaluation"]["rows"]
    assert row["seconds_per_100"] > 0


@pytest.mark.slow
@pytest.mark.sim
def test_steps_are_timed_beside_robosuites_from_the_same_states(tmp_path: Path) -> None:
    found = run_benchmark(quick(tmp_path, "what=robosuite", "beside=[lift,door]", "pairs=1"))
    lift, door = found["robosuite"]["rows"]
    assert (lift["actions"], door["actions"], door["steps"]) == ("expert", "pushed hand", 150)
    for row in (lift, door):
        assert set(row["largest_difference"].values()) == {0.0}
        assert set(row["ms"]) == set(WAYS)
        assert all(found["low"] <= found["value"] <= found["high"] for found in row["ratio"].values())
        assert row["ratio"]["end"]["value"] > 1.5
    page = (tmp_path / "page.md").read_text()
    assert "| lift | expert | 1 (" in page
    assert "without sensors" in page


def test_equality_is_shown_with_and_without_an_expert(tmp_path: Path) -> None:
    largest = {"qpos": 0.0, "qvel": 2e-10, "observation": 0.0}
    part = {"largest_difference": largest, "rewards_or_successes_different": 1}
    step = {**part, "states": 3000, "in_contact": 1200}
    free = {**part, "episodes": 5, "steps": 200}
    stamp = {"commit": "abc", "dirty": False, "date": "2026-01-01"}
    door = {"task": {"name": "door"}, "one_step": step, "free_motion": free, **stamp}
    expert = {"seeds": 30, "outcomes_different": 2}
    lift = {"task": {"name": "lift"}, "one_step": step, "expert": expert, **stamp}
    for name, values in (("door", door), ("lift", lift)):
        (tmp_path / f"robosuite_{name}.json").write_text(json.dumps(values))
    page = check_sections(tmp_path)
    assert "| door | 3,000 (1,200) | 2e-10 | 2e-10 in 5 of 200 steps | 2 of 4,000 | no expert |" in page
    assert "| lift | 3,000 (1,200) | 2e-10 | - | 1 of 3,000 | 2 of 30 |" in page


@pytest.mark.parametrize("wrong", ["what=nothing", "rounds=0", "pairs=0", "networks=[]", "workers=[0]"])
def test_settings_that_cannot_work_are_refused(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        quick(tmp_path, wrong)


def test_a_controller_that_was_tried_is_kept_with_its_patch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"one_step": {"states": 3}, "free_motion": {}, "expert": {}, "settings": {}}
    monkeypatch.setattr(controller, "check_equality", lambda task, **_: {**found, "task": task.name})
    monkeypatch.setattr(controller, "against_robosuite", lambda task, **_: {"ratio": len(task.name)})
    controller.main(["nothing", str(tmp_path / "tried.json")])
    written = json.loads((tmp_path / "tried.json").read_text())
    assert [(row["task"], row["timing"]["ratio"]) for row in written["rows"]] == [
        ("lift", 4), ("can", 3), ("square", 6),
    ]  # fmt: skip
    assert written["rows"][0]["one_step"] == {"states": 3}
    assert set(written) >= {"what", "patch", "commit"}
    with pytest.raises(SystemExit, match="usage"):
        controller.main([])


def test_rows_of_a_plan_are_timed_and_one_on_a_base_has_the_time_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    random_store(Path("data/lift.zarr"), lift_sizes(), episodes=2, steps=20)
    settings = ["trainer.steps=300", "trainer.batch_size=8", "policy.network.width=16", "data=data/lift.zarr"]
    row = {"task": ["lift"], "policy": "diffusion", "demonstrations": [2], "seeds": [0, 1]}
    hand = {**row, "variant": "hand", "settings": [*settings, "observations=[robot0_eef_pos]"]}
    named = "policy.base=outputs/${task.name}/diffusion/handn${demonstrations}/seed${seed}"
    rows = [
        {**row, "settings": settings},
        hand,
        {**row, "policy": "factorized", "settings": [*settings, named]},
        {**row, "variant": "seconds", "settings": settings},
        {**row, "task": ["can"], "settings": settings},
    ]
    Path("plan.yaml").write_text(yaml.safe_dump({"sections": [{"title": "Tiny", "rows": rows}]}))
    config = StepTimesConfig(only=("lift/",), plan="plan.yaml", seconds=0.02, rounds=2, out="checks")
    path, found = run_step_times(config)
    assert path == Path("checks/step_times_lift.json")
    own, base, both = found["rows"]
    assert [row["policy"] for row in found["rows"]] == ["diffusion", "diffusion-hand", "factorized"]
    assert own["steps_in_equal_seconds"] == 300
    assert len(base["parts"]) == 1
    assert both["ms"] == sum(part["p50"] for part in both["parts"])
    assert both["steps_in_equal_seconds"] == round(300 * own["ms"] / both["ms"])
    assert "| lift | factorized |" in check_sections("checks")
    with pytest.raises(
        ConfigError, match=r"policy gmm among them; only=\['lift/'\] finds \['lift/diffusion'"
    ):
        run_step_times(dataclasses.replace(config, reference="gmm"))
