from __future__ import annotations

import base64
import dataclasses
import json
import re
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from tqdm import tqdm

from robopolicy import load
from robopolicy.compose import compose
from robopolicy.errors import CheckpointError, ConfigError
from robopolicy.evaluation import plots
from robopolicy.evaluation.run import EvaluateConfig, run_evaluation
from robopolicy.learning.checkpoint import steps
from robopolicy.learning.log import read_metrics
from robopolicy.learning.nan_guard import NotFiniteError
from robopolicy.policies.diffusion import DiffusionPolicy
from robopolicy.policies.policy import Policy
from robopolicy.registry import parse
from robopolicy.rl.practice import Experience
from robopolicy.rl.refine import RefineConfig, Refinement, prepare
from robopolicy.seeding import episode_seeds
from tests.commands import run as command
from tests.rl import fragile_env
from tests.rl.drift import Drift
from tests.rl.toy_policy import saved, toy_policy
from tests.toy_env import toy_task


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return saved(toy_policy(toy_task(horizon=14)), tmp_path / "base")


def refinement(base: Path, out: Path, **changes: Any) -> Refinement:
    config = compose("refine", [f"checkpoint={base}", f"out={out}", "lanes=3", "workers=0", "steps=300"])
    config |= {"method": {"name": "test_drift"}, "log_every": 50}
    config["evaluate"] = {"every": 100, "episodes": 4, "lanes": 2, "workers": 0}
    return prepare(parse(RefineConfig, config | changes, "refine"), progress=False)


def weights(policy: Policy) -> Tensor:
    return torch.cat([p.flatten() for p in policy.parameters()])


def interrupt_at(target: Refinement, iteration: int) -> None:
    """A polite kill in the middle of an iteration."""
    original = target.refiner.advance

    def advance() -> dict[str, float]:
        assert isinstance(target.refiner, Drift)
        if target.refiner.iteration == iteration:
            signal.raise_signal(signal.SIGTERM)
        return original()

    target.refiner.advance = advance  # type: ignore[method-assign]


def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(base: Path, tmp_path: Path) -> None:
    whole = refinement(base, tmp_path / "whole").run()
    first = refinement(base, tmp_path / "parts")
    interrupt_at(first, 10)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = refinement(base, tmp_path / "parts")
    assert second.resumed
    assert 0 < second.env_steps < 300
    assert (second.refiner.practice.runner.time > 0).any()
    resumed = second.run()
    assert torch.equal(weights(whole), weights(resumed))
    assert whole.provenance == resumed.provenance.__class__(
        **{**vars(resumed.provenance), "config": whole.provenance.config}
    )
    curves = [
        [(r["step"], r["success"]) for r in read_metrics(tmp_path / n / "metrics.jsonl") if "success" in r]
        for n in ("whole", "parts")
    ]
    assert curves[0] == curves[1]
    assert [step // 100 for step, _ in curves[0]] == [0, 1, 2, 3]


SMALL = {"preset": "sac", "hidden": [16, 16], "batch_size": 16}
REAL: dict[str, dict[str, Any]] = {
    "sac": {"n_step": 2, "warmup": 40, "update_ratio": 0.5, "learner": SMALL},
    "dppo": {"denoising_steps": 4, "finetuned_steps": 2, "chunks": 2, "epochs": 2, "batch_size": 32},
}


class KilledError(BaseException):
    """The end of a process: nobody is given the time to save anything."""


@pytest.mark.parametrize("name", REAL)
def test_killed_long_after_its_last_checkpoint_a_run_ends_as_if_it_had_not_been(
    name: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robopolicy.evaluation.plots.refinement_curve", lambda *_, **__: None)  # slow
    method = {"method": compose("refine", [f"method={name}", "checkpoint=x"])["method"] | REAL[name]}
    whole = refinement(base, tmp_path / "whole", **method, steps=200)
    whole.run()
    begun = json.loads((tmp_path / "whole" / "refine.json").read_text())["base_success"]
    assert (begun is None) == (name == "sac")  # which begins with nothing
    assert ("from nothing ->" in whole.summary()) == (name == "sac")
    first = refinement(base, tmp_path / "parts", **method, steps=200, checkpoint_seconds=0.0)
    save, step = first.save, first.refiner.practice.step

    def save_early() -> None:
        if first.env_steps <= 90:
            save()

    def step_until_killed(chunk: np.ndarray) -> Experience:
        if first.env_steps > 130:
            raise KilledError
        return step(chunk)

    first.save, first.refiner.practice.step = save_early, step_until_killed  # type: ignore[method-assign]
    with pytest.raises(KilledError):
        first.run()
    second = refinement(base, tmp_path / "parts", **method, steps=200)
    assert second.resumed
    assert 40 < second.env_steps <= 90 < 130 < first.env_steps
    second.run()
    assert torch.equal(weights(load(tmp_path / "whole")), weights(load(tmp_path / "parts")))
    assert torch.equal(weights(load(tmp_path / "whole" / "best")), weights(load(tmp_path / "parts" / "best")))
    assert not torch.equal(weights(first.refiner.refined()), weights(second.refiner.refined()))
    for key, value in whole.refiner.tensors().items():
        assert torch.equal(second.refiner.tensors()[key], value), key


def test_the_run_directory_holds_the_newest_the_best_the_curve_and_the_costs(
    base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    refinement(base, out).run()
    assert len(steps(out)) == 1
    refined, best = load(out), load(out / "best")
    assert refined.provenance.step >= 300
    assert refined.provenance.task == toy_task(horizon=14)
    practised = {seed for seed in refined.provenance.used_seeds if 1_000_000 <= seed < 2_000_000}
    assert {1, 2, 3, *episode_seeds("select", 4)} < set(refined.provenance.used_seeds)
    assert practised == set(episode_seeds("practice", len(practised)))
    summary = json.loads((out / "refine.json").read_text())
    assert best.provenance.step == summary["best_step"]
    rows = read_metrics(out / "metrics.jsonl")
    assert next(r["warmup"] for r in rows if "warmup" in r) > 0
    spent = sum(r.get("seconds_env", 0.0) for r in rows)
    assert summary["minutes_per_million"]["env"] == pytest.approx(spent / 60 / (summary["env_steps"] / 1e6))
    assert (out / "refine.png").stat().st_size > 1000
    settings = EvaluateConfig(checkpoint=str(out), episodes=3, workers=0, video=0, device="cpu")
    assert run_evaluation(settings, progress=False).evaluation is not None


def test_an_equal_configuration_resumes_with_more_steps_and_another_is_refused(
    base: Path, tmp_path: Path
) -> None:
    refinement(base, tmp_path / "run").run()
    longer = refinement(base, tmp_path / "run", steps=400)
    assert longer.env_steps >= 300
    assert longer.run().provenance.step >= 400
    with pytest.raises(ConfigError, match=r"method.size: None there, 0.5 now"):
        refinement(base, tmp_path / "run", method={"name": "test_drift", "size": 0.5})
    other = saved(toy_policy(toy_task(horizon=14), network={"name": "mlp", "width": 32}), tmp_path / "other")
    with pytest.raises(ConfigError, match="base: "):
        refinement(other, tmp_path / "run")
    with pytest.raises(ConfigError, match="lanes: 3 there, 4 now"):
        refinement(base, tmp_path / "run", lanes=4)


def test_a_run_stops_where_it_is_good_enough_and_goes_on_when_asked_for_more(
    base: Path, tmp_path: Path
) -> None:
    run = refinement(base, tmp_path / "run", stop_at=0.9)
    run.best = 0.95
    run.run()
    assert run.env_steps == 0
    more = refinement(base, tmp_path / "run")
    assert more.resumed
    more.run()
    assert more.env_steps >= more.config.steps
    with pytest.raises(ConfigError, match="stop_at is a success rate"):
        refinement(base, tmp_path / "other", stop_at=95.0)


def test_a_run_without_progress_stops_when_patience_ends(base: Path, tmp_path: Path) -> None:
    run = refinement(base, tmp_path / "run", patience=150)
    run.best = 2.0  # which nothing reaches
    run.run()
    assert 150 <= run.env_steps < run.config.steps
    assert run.measured_at == run.env_steps
    more = refinement(base, tmp_path / "run")
    more.run()
    assert more.env_steps >= more.config.steps
    with pytest.raises(ConfigError, match="patience is a number of environment steps"):
        refinement(base, tmp_path / "other", patience=0)


def test_what_is_not_finite_is_named_and_not_saved(base: Path, tmp_path: Path) -> None:
    broken = refinement(base, tmp_path / "run")
    broken.refiner.advance = lambda: {"loss": 1.0, "kl": float("nan")}  # type: ignore[method-assign]
    with pytest.raises(NotFiniteError, match=r"environment step 0: kl\."):
        broken.run()
    assert not steps(tmp_path / "run")


def test_a_policy_of_another_robot_or_without_a_task_is_refused(base: Path, tmp_path: Path) -> None:
    policy = toy_policy()
    policy.provenance = type(policy.provenance)()
    with pytest.raises(ConfigError, match="without a task: give task="):
        refinement(saved(policy, tmp_path / "taskless"), tmp_path / "run")
    task = toy_task().to_dict() | {"env": {"name": "toy", "wrong": 1}}
    with pytest.raises(ConfigError, match="wrong"):
        refinement(base, tmp_path / "run", task=task)
    assert not (tmp_path / "run").exists()


def test_a_base_can_be_sampled_otherwise_than_by_itself(base: Path, tmp_path: Path) -> None:
    quick = {"name": "ddim", "steps": 2}
    target = refinement(base, tmp_path / "run", sampler=quick)
    target.run()
    best = load(tmp_path / "run" / "best")
    assert isinstance(best, DiffusionPolicy)
    assert len(best.sampler.sigmas) == 3
    with pytest.raises(ConfigError, match="method=dppo has"):
        refinement(base, tmp_path / "other", sampler=quick, method={"name": "dppo"})


def test_sac_begins_with_nothing_but_a_task(base: Path, tmp_path: Path) -> None:
    task = toy_task(horizon=14).to_dict()
    method = compose("refine", ["method=sac"])["method"] | {"warmup": 40, "update_ratio": 0.2}
    changes = {"checkpoint": None, "task": task, "method": method, "steps": 80}
    refinement(base, tmp_path / "run", **changes).run()
    best = load(tmp_path / "run" / "best")
    assert best.provenance.task is not None
    assert best.provenance.task.to_dict() == task
    with pytest.raises(ConfigError, match=r"checkpoint=outputs/.*only method=sac does without"):
        refinement(base, tmp_path / "other", checkpoint=None, task=task)
    with pytest.raises(ConfigError, match="with task="):
        refinement(base, tmp_path / "other", checkpoint=None, method=method)


def test_a_damaged_or_foreign_checkpoint_is_refused(base: Path, tmp_path: Path) -> None:
    refinement(base, tmp_path / "run").run()
    (tmp_path / "run" / "config.json").unlink()
    with pytest.raises(CheckpointError, match="seed 0, not 1"):
        refinement(base, tmp_path / "run", seed=1)


def test_the_command_refines_and_says_what_is_next(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["lanes=4", "workers=0", "steps=200", "evaluate.every=100", "evaluate.episodes=2", "device=cpu"]
    small += ["evaluate.workers=0", "method.chunks=5", "method.denoising_steps=4", "method.finetuned_steps=2"]
    command("refine", f"checkpoint={base}", f"out={tmp_path}/run", *small)
    said = capsys.readouterr().out
    assert f"evaluate.py checkpoint={tmp_path}/run/best" in said
    assert "Minutes a million steps" in said


def test_a_run_is_followed_in_its_line_its_event_file_and_its_report(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[Path] = []
    draw = plots.refinement_curve

    def spy(metrics: Path, path: Path, **settings: Any) -> None:
        drawn.append(path)
        draw(metrics, path, **settings)

    monkeypatch.setattr("robopolicy.evaluation.run.refinement_curve", spy)
    # Every update is a line here, where a person sees one line that changes.
    monkeypatch.setattr("robopolicy.rl.refinement.progress_bar", partial(tqdm, mininterval=0, miniters=0))
    method = compose("refine", ["method=dppo", "checkpoint=x"])["method"] | REAL["dppo"]
    evaluate = {"every": 1000, "episodes": 4, "lanes": 2, "workers": 0}
    run = refinement(base, tmp_path / "run", method=method, steps=200, evaluate=evaluate)
    run.progress = True
    run.run()
    number = r"\d[\d.e+-]*"
    names = ("return", "success", "clip", "kl", "steps/s")
    values = ", ".join(f"{name} {number}" for name in names)
    assert re.search(
        rf"dppo toy: +\d+%.* \d+/200 \[\d\d:\d\d<\d\d:\d\d, .*{values}, best \d+%", capsys.readouterr().err
    )
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    for key in ("practice_return", "practice_success", "clip_fraction", "kl", "steps_per_s", "success"):
        logged = [(event.step, event.value) for event in events.Scalars(key)]
        assert len(logged) > 1
        assert logged == [(row["step"], pytest.approx(row[key])) for row in rows if key in row]
    settings = EvaluateConfig(checkpoint=str(tmp_path / "run"), episodes=2, workers=0, video=0, device="cpu")
    evaluated = run_evaluation(settings, progress=False).directory
    picture = (evaluated / "training.png").read_bytes()
    assert drawn == [evaluated / "training.png"]
    assert base64.b64encode(picture).decode() in (evaluated / "report.html").read_text()


@pytest.mark.parametrize(("env", "kept"), [({"goal": 100.0}, 2), ({}, 1)])
def test_where_success_is_a_return_the_best_checkpoint_has_the_highest_return(
    env: dict[str, float], kept: int
) -> None:
    refinement = object.__new__(Refinement)
    refinement.task = dataclasses.replace(toy_task(), env={**toy_task().env, **env})
    refinement.best, refinement.best_return = 0.1, 50.0
    measured = [SimpleNamespace(success_rate=0.0, mean_return=40.0)]
    measured += [SimpleNamespace(success_rate=0.2, mean_return=30.0)]
    measured += [SimpleNamespace(success_rate=0.0, mean_return=60.0)]
    assert [refinement._better(each) for each in measured] == [n == kept for n in range(3)]  # type: ignore[arg-type]


def test_a_run_goes_on_when_a_worker_dies_in_the_middle(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fragile_env.MARK, str(tmp_path / "died"))
    task = toy_task(horizon=14, env={"name": "toy_dying_once"})
    three = {
        "every": 100,
        "episodes": 3,
        "lanes": 3,
        "workers": 0,
    }  # the deadly one is the fourth of each block
    run = refinement(base, tmp_path / "run", task=task.to_dict(), workers=2, lanes=4, evaluate=three)
    with pytest.warns(UserWarning, match="2 episodes are lost"):
        run.run()
    found = json.loads((tmp_path / "run" / "refine.json").read_text())
    assert (tmp_path / "died").exists()
    assert found["lost_episodes"] == 2
    assert found["env_steps"] >= 300
