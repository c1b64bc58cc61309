from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from robopolicy.codecs import Codec, CodecConfig
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError, DataError, SpecMismatch
from robopolicy.evaluation.collect import collect
from robopolicy.evaluation.evaluate import Evaluation
from robopolicy.evaluation.run import EvaluateConfig, measure, run_evaluation
from robopolicy.learning.checkpoint import save_checkpoint
from robopolicy.policies.policy import Policy, Provenance
from robopolicy.registry import build
from robopolicy.seeding import episode_seeds
from tests.toy_env import toy_spec, toy_task

TASK = toy_task(noise=0.1)


def _untrained(settings: dict[str, Any] | None = None, **provenance: Any) -> Policy:
    torch.manual_seed(0)
    codec = Codec(CodecConfig(), toy_spec())
    rows = {key: torch.rand(64, 2, 2) * 2 - 1 for key in ("position", "goal")}
    codec.fit(iter([(rows, torch.rand(64, 8, 2) * 2 - 1)]))
    config = {
        "name": "diffusion", "obs_horizon": 2, "pred_horizon": 8, "action_horizon": 4, "train_steps": 10,
        "network": {"name": "mlp", "width": 16}, "sampler": {"name": "ddim", "steps": 2},
    }  # fmt: skip
    policy = build("policy", settings or config, spec=toy_spec(), codec=codec)
    policy.provenance = Provenance(**{"task": TASK, **provenance})
    assert isinstance(policy, Policy)
    return policy


def _config(tmp_path: Path, **values: Any) -> EvaluateConfig:
    defaults = {"episodes": 6, "lanes": 3, "workers": 0, "video": 0, "out": str(tmp_path / "out")}
    return EvaluateConfig(**{**defaults, **values})


def test_a_checkpoint_needs_nothing_else(tmp_path: Path) -> None:
    run = tmp_path / "run"
    save_checkpoint(run / "checkpoints" / "step-00000007", _untrained(config={"seed": 5}))
    (run / "metrics.csv").write_text("step,loss\n1,0.5\n2,0.4\n")
    outcome = run_evaluation(
        _config(tmp_path, checkpoint=str(run), out=None, video=2), stages={"train": 3.0}, progress=False
    )
    assert outcome.directory == run / "evaluation"
    assert outcome.evaluation == Evaluation.load(run / "evaluation")
    assert outcome.offline is None
    made = {path.name for path in outcome.directory.iterdir()}
    assert made == {
        "episodes.csv", "evaluation.json", "episodes.mp4", "training.png", "report.html", "sampling.json"
    }  # fmt: skip


def test_what_descents_took_in_the_episodes_is_measured(tmp_path: Path) -> None:
    settings = {
        "name": "energy_published", "obs_horizon": 2, "pred_horizon": 8, "action_horizon": 4,
        "network": {"name": "mlp", "width": 16}, "sampler": {"steps": 9, "tolerance": 0.05},
    }  # fmt: skip
    save_checkpoint(tmp_path / "c", _untrained(settings))
    cost = measure(_config(tmp_path, checkpoint=str(tmp_path / "c")), progress=False).sampling
    assert cost is not None
    assert 1 < cost["mean_calls"] <= cost["most_calls"] <= 9
    save_checkpoint(tmp_path / "d", _untrained())
    plain = measure(_config(tmp_path, checkpoint=str(tmp_path / "d")), progress=False).sampling
    assert plain is not None
    assert plain["calls"] == 2
    assert "mean_calls" not in plain


def test_workers_do_not_change_a_policys_table(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", _untrained())
    tables = []
    for workers in (0, 1, 2):
        outcome = run_evaluation(
            _config(tmp_path, checkpoint=str(tmp_path / "c"), workers=workers), progress=False
        )
        assert outcome.evaluation is not None
        tables.append(outcome.evaluation.rows)
    assert tables[0] == tables[1] == tables[2]


def test_report_seeds_of_checkpoint_and_store_are_refused(tmp_path: Path) -> None:
    seed = episode_seeds("report", 6)[4]
    save_checkpoint(tmp_path / "c", _untrained(used_seeds=(seed,)))
    with pytest.raises(DataError, match="3000004"):
        run_evaluation(_config(tmp_path, checkpoint=str(tmp_path / "c")), progress=False)


def test_a_checkpoint_does_not_fit_another_environment(tmp_path: Path) -> None:
    policy = _untrained()
    policy.spec = dataclasses.replace(toy_spec(), control_hz=30.0)
    save_checkpoint(tmp_path / "c", policy)
    with pytest.raises(SpecMismatch, match="control_hz"):
        run_evaluation(_config(tmp_path, checkpoint=str(tmp_path / "c")), progress=False)


def test_own_data_needs_no_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collect(TASK, tmp_path / "toy.zarr", episodes=4, workers=0, progress=False)
    save_checkpoint(tmp_path / "c", _untrained(task=None))
    config = _config(tmp_path, checkpoint=str(tmp_path / "c"), data=str(tmp_path / "toy.zarr"))
    outcome = run_evaluation(config, progress=False)
    assert outcome.evaluation is None
    assert outcome.offline is not None
    assert "Offline error over" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "offline_error.json").read_text())["names"] == ["x", "y"]
    with pytest.raises(ConfigError, match=r"task=.*data="):
        run_evaluation(_config(tmp_path, checkpoint=str(tmp_path / "c")), progress=False)


@pytest.mark.parametrize(
    "name, at_least, at_most", [("expert", 1.0, 1.0), ("zero", 0.0, 0.5), ("random", 0.0, 0.9)]
)
def test_scripted_policies(tmp_path: Path, name: str, at_least: float, at_most: float) -> None:
    outcome = run_evaluation(_config(tmp_path, policy={"name": name}, task=TASK.to_dict()), progress=False)
    assert outcome.evaluation is not None
    assert at_least <= outcome.evaluation.success_rate <= at_most


def test_replay_takes_task_and_seeds_from_the_store(tmp_path: Path) -> None:
    collect(TASK, tmp_path / "toy.zarr", episodes=5, workers=0, progress=False)
    config = _config(tmp_path, policy={"name": "replay"}, data=str(tmp_path / "toy.zarr"), episodes=4)
    evaluation = run_evaluation(config, progress=False).evaluation
    assert evaluation is not None
    assert evaluation.success_rate == 1.0
    assert evaluation.block == "collect"
    assert [r.seed for r in evaluation.rows] == EpisodeStore.open(tmp_path / "toy.zarr").seeds[:4].tolist()
    with pytest.raises(ConfigError, match="needs data="):
        run_evaluation(_config(tmp_path, policy={"name": "replay"}, task=TASK.to_dict()), progress=False)


@pytest.mark.parametrize(
    "values, message",
    [
        ({}, "either checkpoint="),
        ({"checkpoint": "a", "policy": {"name": "zero"}}, "either checkpoint="),
        ({"policy": {"name": "diffusion"}}, r"expert, random, replay, zero.*checkpoint="),
        ({"policy": {"name": "zero"}, "episodes": 0}, "episodes, lanes >= 1"),
    ],
)
def test_settings_that_cannot_work(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EvaluateConfig(**values)


def test_measuring_imports_no_torch() -> None:
    code = (
        "import sys, robopolicy.evaluation.statistics, robopolicy.evaluation.evaluate, "
        "robopolicy.evaluation.collect, robopolicy.evaluation.run, robopolicy.evaluation.tables; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
