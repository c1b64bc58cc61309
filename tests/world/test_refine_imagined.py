"""Refinement in imagination: the same methods, the same loop, and real success beside the imagined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from robopolicy import load
from robopolicy.compose import compose
from robopolicy.errors import ConfigError
from robopolicy.evaluation.evaluate import evaluate
from robopolicy.learning.log import read_metrics
from robopolicy.policies.gaussian import GaussianPolicy
from robopolicy.policies.policy import Policy
from robopolicy.registry import parse
from robopolicy.rl.ppo import PPO, PPOConfig
from robopolicy.rl.refine import RefineConfig, Refinement, prepare
from robopolicy.rollout import PolicyActor
from robopolicy.world.imagined import ImaginedVectorEnv
from robopolicy.world.train import WorldTraining
from tests.commands import run as command
from tests.rl.toy_policy import cloned_policy, saved, toy_policy
from tests.toy_env import toy_task
from tests.world.toy_world import TASK, random_actor, recorded, training

GAUSSIAN = {"name": "gaussian", "network": None, "sampler": None, "width": 32, "blocks": 1}
METHOD = {"name": "ppo", "chunks": 8, "epochs": 2, "batch_size": 64}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(toy_policy(TASK, **GAUSSIAN), tmp_path_factory.mktemp("base"))


def refinement(base: Path, run: Path, out: Path, **changes: Any) -> Refinement:
    words = [f"checkpoint={base}", f"out={out}", "env=imagined", f"world={run}", "lanes=6", "steps=400"]
    config = compose("refine", words)
    config |= {"method": METHOD, "log_every": 50, "device": "cpu"}
    config["evaluate"] = {"every": 150, "episodes": 4, "lanes": 2, "workers": 0, "max_gap": 1.0}
    return prepare(parse(RefineConfig, config | changes, "refine"), progress=False)


def weights(policy: Policy) -> torch.Tensor:
    return torch.cat([p.flatten() for p in policy.parameters()])


@pytest.mark.slow
def test_a_run_in_imagination_resumes_bit_for_bit(base: Path, trained: WorldTraining, tmp_path: Path) -> None:
    world = trained.directory
    whole = refinement(base, world, tmp_path / "whole").run()
    refinement(base, world, tmp_path / "parts", steps=200).run()
    second = refinement(base, world, tmp_path / "parts")
    assert second.resumed
    assert isinstance(second.envs, ImaginedVectorEnv)
    assert torch.equal(weights(whole), weights(second.run()))


def test_real_and_imagined_success_are_logged_side_by_side(
    base: Path, trained: WorldTraining, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    refinement(base, trained.directory, out).run()
    checks = [row for row in read_metrics(out / "metrics.jsonl") if "success" in row]
    assert len(checks) >= 3
    for row in checks:
        assert row["optimism"] == pytest.approx(row["imagined_success"] - row["success"])
    rows = [row for row in read_metrics(out / "metrics.jsonl") if "imagined_clipped" in row]
    assert rows
    assert all(0 <= row["imagined_clipped"] <= 1 and row["imagined_diverged"] == 0 for row in rows)
    refined = load(out / "best")
    assert set(trained.trainer.policy.provenance.used_seeds) < set(refined.provenance.used_seeds)
    assert refined.provenance.task == TASK  # the real one: evaluation knows nothing of imagination


def test_a_run_stops_where_imagination_promises_too_much(
    base: Path, trained: WorldTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"every": 100, "episodes": 4, "lanes": 2, "workers": 0, "max_gap": 0.3}
    run = refinement(base, trained.directory, tmp_path / "run", steps=10_000, evaluate=settings)
    usual = run._checks.__call__

    def glowing(policy: Policy) -> Any:
        measured, row = usual(policy)
        return measured, row | {"optimism": 0.5}

    monkeypatch.setattr(run, "_checks", _Fake(glowing, run._checks))
    run.run()
    assert run.distrusted == 2
    assert 0 < run.env_steps < 1000


class _Fake:
    def __init__(self, call: Any, real: Any) -> None:
        self._call, self.too_optimistic, self.close = call, real.too_optimistic, real.close

    def __call__(self, policy: Policy) -> Any:
        return self._call(policy)


def test_the_model_and_the_world_belong_together(base: Path, trained: WorldTraining, tmp_path: Path) -> None:
    world = trained.directory
    with pytest.raises(ConfigError, match="give both or neither"):
        refinement(base, world, tmp_path / "run", world=None)
    with pytest.raises(ConfigError, match="Unknown env 'dreamed'"):
        refinement(base, world, tmp_path / "run", env={"name": "dreamed"})
    with pytest.raises(ConfigError, match="not the environment's reward"):
        refinement(base, world, tmp_path / "run", method=METHOD | {"convention": {"reward": "env"}})
    env = {"name": "imagined", "pessimism": 1.0}
    with pytest.raises(ConfigError, match="reward=cost pays for ending an episode"):
        refinement(base, world, tmp_path / "run", env=env, method=METHOD | {"convention": {"reward": "cost"}})
    refinement(base, world, tmp_path / "run").close()
    with pytest.raises(ConfigError, match="env"):
        refinement(base, world, tmp_path / "run", env=None, world=None)


@pytest.mark.parametrize("method", ["dppo", "dsrl_sac"])
def test_other_methods_practise_there_too(method: str, trained: WorldTraining, tmp_path: Path) -> None:
    policy = saved(toy_policy(TASK, sampler={"name": "ddim", "steps": 4}), tmp_path / "base")
    words = [f"checkpoint={policy}", f"out={tmp_path}/run", "env=imagined", f"world={trained.directory}"]
    words += ["lanes=4", "steps=200", "evaluate.every=200", "evaluate.episodes=2", "evaluate.workers=0"]
    words += ["device=cpu", f"method={method}"]
    if method == "dppo":
        words += ["method.chunks=5", "method.denoising_steps=4", "method.finetuned_steps=2"]
    else:
        words += ["method.warmup=64", "method.learner.hidden=[16]", "method.learner.batch_size=16"]
    command("refine", *words)
    assert load(tmp_path / "run" / "best").provenance.task == TASK


@pytest.mark.slow
def test_what_improves_in_imagination_improves_in_truth(tmp_path: Path) -> None:
    """90 recorded episodes, most of them failures; no further interaction."""
    task = toy_task(horizon=16, success_hold=2, env={"speed": 0.2, "reach": 0.05}, noise=0.3)
    base = cloned_policy(task, episodes=6, updates=60, **{**GAUSSIAN, "width": 64})
    recorded(tmp_path / "expert.zarr", episodes=30, task=task)
    recorded(tmp_path / "policy.zarr", PolicyActor(base), episodes=40, task=task)
    recorded(tmp_path / "random.zarr", random_actor(), episodes=20, task=task)
    stores = [tmp_path / f"{name}.zarr" for name in ("expert", "policy", "random")]
    made = training(stores, tmp_path / "world", steps=800, unroll=2)
    world = made.run()
    envs = ImaginedVectorEnv(world, made.starts, task, 32, chunk=4)
    config = PPOConfig(chunks=16, epochs=5, batch_size=170, actor_rate=5e-4, clip=0.03, gamma=0.98)
    assert isinstance(base, GaussianPolicy)
    refiner = PPO(config, policy=base, envs=envs, seed=0)

    def success() -> float:
        actor = PolicyActor(refiner.refined())
        found = evaluate(actor, task, episodes=200, block="select", lanes=100, workers=0, progress=False)
        return found.success_rate

    before = success()
    for _ in range(25):
        refiner.advance()
    assert before < 0.5
    assert success() > before + 0.2
