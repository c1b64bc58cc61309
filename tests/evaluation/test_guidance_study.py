from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robopolicy.env import make_env
from robopolicy.errors import ConfigError
from robopolicy.evaluation import composition_study, guidance_study, steering_plots
from robopolicy.evaluation.composition_study import CompositionStudyConfig, run_composition_study
from robopolicy.evaluation.guidance_study import (
    GuidanceStudyConfig,
    Setting,
    drawn,
    run_guidance_study,
    settings,
)
from robopolicy.policies.diffusion import DiffusionPolicy
from robopolicy.policies.policy import Provenance
from robopolicy.registry import build
from robopolicy.seeding import episode_seeds
from robopolicy.task import Task
from tests.steering.toys import strolling

TASK = Task(
    name="avoidance_absolute",
    env={"name": "avoidance", "controller": "absolute"},
    horizon=80,
    success_hold=0,
)
CONFIG = GuidanceStudyConfig(checkpoint="none", episodes=3, strengths=(1.0,))


def policy(*used: int) -> DiffusionPolicy:
    env = make_env(TASK)
    env.close()
    made = strolling(env.robot_spec, deviation=0.001)
    made.provenance = Provenance(task=TASK, used_seeds=used)
    return made


def fake_load(monkeypatch: pytest.MonkeyPatch, *used: int) -> None:
    monkeypatch.setattr("robopolicy.learning.checkpoint.load", lambda path, device: policy(*used))


def test_every_setting_costs_the_same_to_within_one_evaluation() -> None:
    from robopolicy.steering.guidance import Sketch

    seen = {key: np.zeros((1, 2, *o.shape), np.float32) for key, o in policy().spec.observations.items()}
    wish = Sketch([[0.0, 0.0], [0.0, 1.0]])
    labels = set()
    for setting in settings(CONFIG):
        base = policy().with_sampler({"name": "ddim", "steps": setting.steps})
        steered = build("steer", setting.steer, policy=base, guidance=wish)
        calls = steered.sample(seen, generator=torch.Generator().manual_seed(0)).calls
        assert abs(calls - 40) <= 1, setting
        labels.add(setting.label)
    assert len(labels) == 10


@pytest.mark.sim
def test_feasible_sketches_avoid_the_obstacles_and_infeasible_ones_go_through_three() -> None:
    seeds = episode_seeds("report", 3)
    env = make_env(TASK)
    for kind, lines in drawn(TASK, seeds, CONFIG).items():
        for seed, line in zip(seeds, lines, strict=True):
            observation, _ = env.reset(seed=seed)
            np.testing.assert_allclose(line[0], observation["position"], atol=1e-6)
            centres = observation["obstacles"].reshape(-1, 2)
            gap = np.linalg.norm(line[:, None] - centres, axis=2).min(0)
            assert (gap > 0.033).all() if kind == "feasible" else (gap < 1e-6).sum() == 3
    env.close()


@pytest.mark.sim
def test_the_study_writes_its_table_and_picture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_load(monkeypatch)
    few = [
        Setting(
            label="hand", steps=2, steer={"name": "output_perturbation", "strength": share}, strength=share
        )
        for share in (0.0, 1.0)
    ]
    monkeypatch.setattr(guidance_study, "settings", lambda config: few)
    path, found = run_guidance_study(GuidanceStudyConfig(checkpoint="none", episodes=3, out=str(tmp_path)))
    free, held = found["rows"]
    for kind in ("feasible", "infeasible"):
        assert held[kind]["planned"] < 0.005 < free[kind]["planned"]
        assert held[kind]["executed"] < free[kind]["executed"]
    assert held["feasible"]["valid"]["value"] == 1.0
    assert held["infeasible"]["valid"]["value"] == 0.0
    written: dict[str, Any] = json.loads(path.read_text())
    assert path.name == "itps_avoidance.json"
    assert {"commit", "machine", "versions", "date"} <= {*written}
    steering_plots.frontier(written, tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").stat().st_size > 5_000


@pytest.mark.sim
def test_compositions_are_measured_beside_their_parents(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_load(monkeypatch)
    labels = [
        label
        for label, _ in composition_study.compositions(
            dict.fromkeys(("first", "second", "weak", "pooled"), policy())
        )
    ]
    assert len(labels) == len({*labels}) == 16
    chosen = {"first", "first and weak, product, Langevin"}
    whole = composition_study.compositions
    monkeypatch.setattr(
        composition_study, "compositions", lambda parents: [c for c in whole(parents) if c[0] in chosen]
    )
    config = CompositionStudyConfig(
        first="a", second="b", weak="c", pooled="d", starts=2, repetitions=2, out=str(tmp_path)
    )
    path, found = run_composition_study(config)
    assert [row["evaluations"] for row in found["rows"]] == [10, 100]
    assert all(row["episodes"] == 4 for row in found["rows"])
    steering_plots.compositions(json.loads(path.read_text()), tmp_path / "bars.png")
    assert (tmp_path / "bars.png").stat().st_size > 5_000


def test_episodes_that_the_policy_has_seen_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_load(monkeypatch, episode_seeds("report", 1)[0])
    with pytest.raises(ConfigError, match="has seen 1 of these episodes"):
        run_guidance_study(CONFIG)
    with pytest.raises(ConfigError, match="The first policy has seen"):
        run_composition_study(CompositionStudyConfig(first="a", second="b", weak="c", pooled="d"))


@pytest.mark.parametrize("bad", [{"episodes": 0}, {"budget": 50}, {"strengths": ()}, {"block": "blok"}])
def test_studies_that_make_no_sense_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="guidance_study"):
        GuidanceStudyConfig(checkpoint="none", **bad)
