from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from robopolicy.rl import kept_noise
from robopolicy.rl.kept_noise import KeptNoise, main
from robopolicy.rollout import LaneView
from tests.rl.toy_policy import saved, toy_policy
from tests.toy_env import toy_task


def view(time: int, seeds: tuple[int, ...] = (5, 6)) -> LaneView:
    observation = {
        key: np.zeros((len(seeds), toy_policy().obs_horizon, *o.shape), np.float32)
        for key, o in toy_policy().spec.observations.items()
    }
    return LaneView(observation, np.array(seeds), np.full(len(seeds), time))


def test_noise_is_an_episodes_own_and_stays() -> None:
    actor = KeptNoise(toy_policy(), 0.5)
    actor.act(view(0))
    first = actor._noise.clone()
    actor.act(view(4))
    assert torch.equal(actor._noise, first)
    assert not torch.equal(first[0], first[1])
    assert 0.2 < float(first.abs().max()) <= 0.5
    actor.act(view(0, seeds=(6, 5)))
    assert torch.equal(actor._noise, first.flip(0))
    none = KeptNoise(toy_policy(), 0.0)
    none.act(view(0))
    assert not none._noise.any()


def test_the_command_measures_every_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_noise, "EPISODES", 4)
    base = saved(toy_policy(toy_task(horizon=6)), tmp_path / "base")
    main([str(base), str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found["success"]) == [
        *("fresh", "0", "0.5", "1", "1.5"), "best of 8 draws", "worst of 8 draws",
    ]  # fmt: skip
    rates = {name: value["value"] for name, value in found["success"].items()}
    assert rates["worst of 8 draws"] <= rates["fresh"] <= rates["best of 8 draws"]
    assert rates["best of 8 draws"] == np.mean(np.array(found["draws"]) > 0)
    assert all(0 <= value["value"] <= 1 for value in found["success"].values())
    assert found["episodes"] == 4
