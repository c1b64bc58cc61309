from __future__ import annotations

from pathlib import Path

import pytest

from robopolicy.compose import compose
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError
from robopolicy.learning.checkpoint import read_json
from robopolicy.registry import parse
from robopolicy.rl.outer import OuterConfig, improve
from robopolicy.rl.refine import RefineConfig
from robopolicy.world.train import TrainWorldConfig
from tests.rl.toy_policy import saved, toy_policy
from tests.world.toy_world import TASK, random_actor, recorded


@pytest.mark.slow
def test_rounds_learn_from_what_the_refined_policy_did(tmp_path: Path) -> None:
    recorded(tmp_path / "expert.zarr", episodes=10)
    recorded(tmp_path / "random.zarr", random_actor(), episodes=10)
    policy = toy_policy(TASK, name="gaussian", network=None, sampler=None, width=16, blocks=1)
    base = saved(policy, tmp_path / "base")
    world = {
        "world": {"name": "state", "width": 16, "blocks": 1, "success_width": 8},
        "trainer": {"steps": 20, "batch_size": 32, "warmup": 2},
        "data": [str(tmp_path / "expert.zarr"), str(tmp_path / "random.zarr")],
        "validation": 0.4,
        "device": "cpu",
    }
    words = [f"checkpoint={base}", "env=imagined", "world=later", "lanes=3", "steps=60", "device=cpu"]
    refine = compose("refine", words) | {"method": {"name": "ppo", "chunks": 4, "epochs": 1}}
    refine["evaluate"] = {"every": 60, "episodes": 2, "lanes": 2, "workers": 0}
    refine["workers"] = 0
    last = improve(
        OuterConfig(rounds=2, episodes=3),
        parse(TrainWorldConfig, world, "world"),
        parse(RefineConfig, refine, "refine"),
        tmp_path / "outer",
        progress=False,
    )
    assert last == tmp_path / "outer" / "round-1" / "refined"
    assert (last / "best" / "policy.json").exists()
    episodes = EpisodeStore.open(tmp_path / "outer" / "round-0" / "episodes.zarr")
    assert len(episodes) == 3
    assert len(read_json(tmp_path / "outer" / "round-1" / "world" / "config.json")["data"]) == 3
    assert not (tmp_path / "outer" / "round-1" / "episodes.zarr").exists()


def test_a_budget_has_to_go_round() -> None:
    assert OuterConfig(rounds=3, episodes=41).each == 20
    assert OuterConfig(rounds=1, episodes=0).each == 0
    with pytest.raises(ConfigError, match="got 4 rounds and 2 episodes"):
        OuterConfig(rounds=4, episodes=2)
