"""Practice on a robot without a wire: three processes, a tiny policy, seconds."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardware.practise import Journal, PractiseConfig, practise
from hardware.session import SessionConfig
from robopolicy.errors import ConfigError
from robopolicy.learning.checkpoint import load, read_json, read_tensors
from robopolicy.seeding import episode_seeds
from tests.hardware.test_deploy import checkpoint
from tests.hardware.test_session import Operator, robot

METHOD = {
    "name": "dsrl_sac",
    "convention": {"terminate": True},
    "warmup": 30,
    "update_ratio": 2.0,
    "repeat": True,
    "learner": {"preset": "sac", "hidden": [16, 16], "batch_size": 16, "layer_norm": True},
}


def settings(directory: Path, **changes: Any) -> PractiseConfig:
    values: dict[str, Any] = {
        "robot": robot(),
        "checkpoint": checkpoint(directory),
        "method": METHOD,
        "minutes": 0.06,
        "episodes": 1,
        "out": str(directory / "out"),
        "results": str(directory / "results.json"),
        "session": SessionConfig(operator="ada"),
        "force": True,
        **changes,
    }
    return PractiseConfig(**values)


@pytest.mark.slow
def test_a_robot_practises_while_another_process_learns(tmp_path: Path) -> None:
    config, operator, said = settings(tmp_path), Operator(), list[str]()
    policy = practise(config, ask=operator, say=said.append)
    out = tmp_path / "out"
    journal = read_json(out / "journal.json")
    assert journal["minutes"] >= 0.06
    assert len(journal["episodes"]) >= 1
    assert all(episode["steps"] == 12 and episode["success"] for episode in journal["episodes"])
    assert sum("Put the scene in order" in text for text in operator.asked) >= len(journal["episodes"])
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["learner"]["updates"] > 0
    assert results["learner"]["rows"] * 8 >= journal["env_steps"]
    assert results["after_minus_before"]["pairs"] == 1
    assert results["practice"]["control_ticks"] > 200
    assert results["commit"]
    replay = read_tensors(out / "learner" / "training.safetensors")
    assert replay["replay.rows.sent"].shape[1:] == (1, 8, 2)[-2:]
    assert (replay["replay.rows.reasons"] >= 0).all()
    assert replay["replay.rows.discount"][-1] >= 0
    # The refined policy acts with the actor that the other process learned.
    learned = read_tensors(out / "learner" / "actor.safetensors")
    loaded = load(out / "policy")
    for name, value in learned.items():
        torch.testing.assert_close(loaded.state_dict()[f"actor.{name}"], value)
        torch.testing.assert_close(policy.state_dict()[f"actor.{name}"], value)
    practised = [episode["seed"] for episode in journal["episodes"]]
    assert set(practised) <= set(loaded.provenance.used_seeds)
    assert not set(episode_seeds("report", 1)) & set(loaded.provenance.used_seeds)

    practise(dataclasses.replace(config, minutes=0.09), ask=operator, say=said.append)
    more = read_json(out / "journal.json")
    assert more["env_steps"] > journal["env_steps"]
    seeds = [episode["seed"] for episode in more["episodes"]]
    assert len(set(seeds)) == len(seeds)
    with pytest.raises(ConfigError, match="seed: 0 there, 1 now"):
        practise(dataclasses.replace(config, seed=1), ask=operator)


def test_what_a_robot_cannot_practise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dsrl or dsrl_sac, not dppo"):
        practise(settings(tmp_path, method={"name": "dppo"}))
    with pytest.raises(ConfigError, match="nobody can tell success"):
        practise(settings(tmp_path, checkpoint=checkpoint(tmp_path / "without", task=None)))
    with pytest.raises(ConfigError, match="minutes >= 0"):
        settings(tmp_path, minutes=-1.0)
    assert not os.path.exists(tmp_path / "out")


def test_a_journal_is_summed_up() -> None:
    episodes = [{"seed": n, "success": n % 2 == 0, "steps": 9, "stopped": ""} for n in range(30)]
    episodes[3]["stopped"] = "collision"
    found = Journal(minutes=2.0, episodes=episodes, decide_ms=list(np.arange(101.0))).summary()
    assert found["success_by_25_episodes"] == [0.52, 0.4]
    assert found["stopped"] == {"collision": 1}
    assert found["decide_ms_p50_p99"] == [50.0, 99.0]
