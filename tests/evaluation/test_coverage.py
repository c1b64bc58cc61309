"""Routes and their entropy, and evaluations in which things go wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from envs.avoidance_env import AvoidanceEnv
from robopolicy.codecs import Codec, CodecConfig
from robopolicy.errors import ConfigError, MissingCapability
from robopolicy.evaluation.coverage import coverage, entropy
from robopolicy.evaluation.evaluate import Evaluation
from robopolicy.evaluation.run import EvaluateConfig, run_evaluation
from robopolicy.learning.checkpoint import save_checkpoint
from robopolicy.policies.policy import Provenance
from robopolicy.registry import build
from robopolicy.rollout import LaneView, PolicyActor
from robopolicy.spec import Spec
from robopolicy.task import Task
from tests.toy_env import toy_spec, toy_task

AVOIDANCE = Task(name="avoidance", env={"name": "avoidance"}, horizon=80, success_hold=0)


class Detour:
    """Around the whole field on one side."""

    obs_horizon, action_horizon = 1, 5
    spec: Spec | None = None

    def __init__(self, side: float) -> None:
        self.side = side

    def act(self, view: LaneView) -> np.ndarray:
        action = np.where(view.time[:, None] < 15, (self.side, 0.0), (0.0, 1.0))
        return np.repeat(action[:, None], 5, axis=1).astype(np.float32)


def make_policy(**provenance: Any) -> Any:
    torch.manual_seed(0)
    config = {
        "name": "diffusion", "obs_horizon": 1, "pred_horizon": 8, "action_horizon": 4, "train_steps": 10,
        "network": {"name": "mlp", "width": 16}, "sampler": {"name": "ddim", "steps": 2},
    }  # fmt: skip
    policy = build("policy", config, spec=toy_spec(), codec=Codec(CodecConfig(), toy_spec()))
    policy.provenance = Provenance(**{"task": toy_task(), **provenance})
    return policy


def test_entropy() -> None:
    assert entropy([], 24) == entropy([5], 24) == entropy([5, 0], 1) == 0
    assert entropy([3] * 24, 24) == pytest.approx(1)
    assert entropy([8, 8, 0], 24) == pytest.approx(math.log(2) / math.log(24))


@pytest.mark.sim
def test_routes_are_counted_for_each_start(tmp_path: Path) -> None:
    measured = coverage(lambda r: Detour((-1.0) ** r), AVOIDANCE, [11, 12, 13], repetitions=8)
    assert measured.possible == 24
    assert [start.seed for start in measured.starts] == [11, 12, 13]
    for start in measured.starts:
        assert start.routes == {"000": 4, "123": 4}
        assert start.successes == start.episodes == 8
        assert start.entropy == pytest.approx(math.log(2) / math.log(24))
    measured.save(tmp_path)
    found = json.loads((tmp_path / "coverage.json").read_text())
    assert found["routes_found"] == 2
    assert found["success"] == 1.0
    assert found["expert_entropy"] > found["entropy"]
    assert all(len(start["routes"]) > 2 for start in found["expert"])
    assert "2 of 24 routes" in measured.summary()


@pytest.mark.sim
def test_the_expert_is_measured_once_for_all_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    expert = AvoidanceEnv.expert
    monkeypatch.setattr(AvoidanceEnv, "expert", lambda *a: asked.append(a[1]) or expert(*a))
    both = [
        coverage(lambda r, way=way: Detour(way), AVOIDANCE, [21, 22], repetitions=2) for way in (-1.0, 1.0)
    ]
    assert len(asked) == 4
    assert both[0].expert == both[1].expert
    assert both[0].starts != both[1].starts


def test_a_task_without_routes_is_refused() -> None:
    with pytest.raises(MissingCapability, match="no routes"):
        coverage(lambda r: Detour(1.0), toy_task(), [1])


def test_repetitions_differ_in_their_noise_alone() -> None:
    policy = make_policy()
    seen = {key: np.full((2, 1, 2), 0.3, np.float32) for key in ("position", "goal")}
    view = LaneView(seen, np.array([4, 5]), np.zeros(2, np.int64))
    plain, first, again, second = (PolicyActor(policy, repetition=r).act(view) for r in (0, 1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, second)
    assert not np.allclose(first, plain)


def test_a_checkpoint_is_measured_under_perturbations(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000001", make_policy())
    tables = []
    for perturb in (None, {"name": "noise", "level": 0.0, "group": "object"}):
        config = EvaluateConfig(
            checkpoint=str(tmp_path / "run"), perturb=perturb, episodes=4, workers=0, video=0
        )
        outcome = run_evaluation(config, progress=False)
        assert outcome.directory == tmp_path / "run" / ("evaluation_noise" if perturb else "evaluation")
        found = Evaluation.load(outcome.directory)
        assert [dict(entry) for entry in found.task.perturb] == ([perturb] if perturb else [])
        tables.append(found.rows)
    assert tables[0] == tables[1]


def test_an_expert_that_cannot_see_the_goal_fails(tmp_path: Path) -> None:
    blind = {"name": "dropout", "level": 1.0, "group": "object"}
    config = EvaluateConfig(
        policy={"name": "expert"}, task=toy_task().to_dict(), perturb=blind, episodes=10, workers=0, video=0,
        out=str(tmp_path),
    )  # fmt: skip
    outcome = run_evaluation(config, progress=False)
    assert outcome.evaluation is not None
    assert outcome.evaluation.success_rate < 0.5
    with pytest.raises(ConfigError, match="needs checkpoint"):
        EvaluateConfig(policy={"name": "expert"}, coverage=4)
