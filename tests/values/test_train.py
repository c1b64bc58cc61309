"""Values are learned, resumed exactly, saved with their codec; every preset does its part."""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import robopolicy
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import CheckpointError, ConfigError
from robopolicy.evaluation.collect import collect
from robopolicy.learning.checkpoint import save_checkpoint
from robopolicy.policies.actor_critic import ActorCriticPolicy, load_value
from robopolicy.rl.actor_critic import ActorCritic
from robopolicy.rl.actor_critic import Transitions as Batch
from robopolicy.rl.presets import learner_config
from robopolicy.rollout import PolicyActor
from robopolicy.values.train import value_settings
from tests.pixel_env import pixel_task
from tests.policies.toys import make
from tests.rl.toy_base import TASK, astray, success
from tests.values.toys import LEARNER, mixed, trainer

ADVANTAGE: dict[str, dict[str, Any]] = {
    "iql": {"beta": 20.0, "expectile": 0.8},
    "riql": {"beta": 20.0, "expectile": 0.8, "critics": 3, "huber_delta": 0.2, "quantile": 0.5},
}


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("episodes") / "toy.zarr"
    store = mixed(path)
    assert 0.2 < (store.successes == 1).mean() < 0.9
    return path


@pytest.mark.slow
@pytest.mark.parametrize("preset", ADVANTAGE)
def test_weighing_by_advantage_beats_the_mean_of_the_data(preset: str, tmp_path: Path) -> None:
    # The policy that was recorded goes to the wrong place on average; its noise sometimes saves it.
    collect(
        TASK, tmp_path / "a.zarr", episodes=100, lanes=20, workers=0, progress=False,
        actor=PolicyActor(astray(bias=0.1, spread=0.6)), origin="toy",
    )  # fmt: skip
    learner = {"tau": 0.02, **ADVANTAGE[preset]}
    learning = trainer(tmp_path / "a.zarr", tmp_path / "run", preset=preset, learner=learner, steps=600)
    assert success(learning.train()) > success(astray(bias=0.1, spread=0.0)) + 0.25


@pytest.mark.parametrize(
    "preset", ["iql", *(pytest.param(name, marks=pytest.mark.slow) for name in ("riql", "td3_bc", "cal_ql"))]
)
def test_every_preset_beats_the_mean_of_mixed_actions(preset: str) -> None:
    # Half of the data goes left, half goes right, and right is better: their mean stands still.
    changes: dict[str, Any] = {
        "iql": {"beta": 10.0},
        "riql": {"beta": 10.0, "critics": 3},
        "td3_bc": {"constraint_weight": 0.1},
        "cal_ql": {"next_actions": 2, "constraint_actions": 2, "constraint_weight": 0.1},
    }[preset]
    config = learner_config({"preset": preset, **LEARNER, "initial_temperature": 0.01, **changes})
    learner = ActorCritic(config, 3, 2, seed=0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(250):
        state = torch.rand(128, 3, generator=generator) * 2 - 1
        side = torch.where(torch.rand(128, generator=generator) < 0.5, -0.6, 0.6)
        action = side[:, None] + 0.1 * torch.randn(128, 2, generator=generator)
        learner.update(
            Batch(
                state=state, action=action, reward=action[:, 0], discount=torch.zeros(128),
                next_state=state, returns=action[:, 0],
            ),
            generator,
        )  # fmt: skip
    assert float(learner.act(torch.zeros(1, 3), None)[0, 0]) > 0.35


def test_a_resumed_run_equals_an_uninterrupted_one(episodes: Path, tmp_path: Path) -> None:
    straight = trainer(episodes, tmp_path / "straight", steps=8).train()
    trainer(episodes, tmp_path / "halted", steps=5).train()
    resumed = trainer(episodes, tmp_path / "halted", steps=8)
    assert resumed.step == 5
    resumed.train()
    for (name, found), expected in zip(
        resumed.policy.state_dict().items(), straight.state_dict().values(), strict=True
    ):
        assert torch.equal(found, expected), name


def test_an_interrupt_saves_and_the_same_command_goes_on(
    episodes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning = trainer(episodes, tmp_path, steps=50)
    update = learning.learner.update

    def interrupted(*arguments: Any) -> Any:
        if int(learning.learner.updates) == 3:
            signal.raise_signal(signal.SIGINT)
        return update(*arguments)

    monkeypatch.setattr(learning.learner, "update", interrupted)
    assert threading.current_thread() is threading.main_thread()
    with pytest.raises(KeyboardInterrupt):
        learning.train()
    assert trainer(episodes, tmp_path, steps=50).step == 4


def test_values_survive_saving_with_their_codec(episodes: Path, tmp_path: Path) -> None:
    policy = trainer(episodes, tmp_path, steps=3).train()
    loaded = robopolicy.load_value(str(tmp_path))
    rng = np.random.default_rng(0)
    seen = {
        key: torch.as_tensor(rng.normal(size=(5, 1, 2)), dtype=torch.float32) for key in ("position", "goal")
    }
    actions = torch.as_tensor(rng.uniform(-1, 1, (5, 4, 2)), dtype=torch.float32)
    both = [
        (
            model.state(seen),
            model.encode(actions, seen),
            model.q(model.state(seen), model.encode(actions, seen)),
        )
        for model in (policy, loaded)
    ]
    for found, expected in zip(*both, strict=True):
        assert torch.equal(found, expected)
    sampled = [model.sample(seen).actions for model in (policy, loaded)]
    assert torch.equal(*sampled)
    assert loaded.provenance.used_seeds == tuple(EpisodeStore.open(episodes).seeds.tolist())
    assert value_settings(loaded).gamma == 0.9
    description = json.loads((next(tmp_path.rglob("policy.json"))).read_text())
    assert description["policy"]["name"] == "actor_critic"
    assert description["codec"]["observation"] == "zscore"


def test_actions_beyond_the_data_are_clipped_in_one_place(episodes: Path, tmp_path: Path) -> None:
    policy = trainer(episodes, tmp_path, steps=1).train()
    seen = {key: torch.zeros(1, 1, 2) for key in ("position", "goal")}
    assert policy.encode(torch.full((1, 4, 2), 50.0), seen).tolist() == [[1.0] * 8]


def test_floors_keep_targets_at_the_returns(episodes: Path, tmp_path: Path) -> None:
    for floor in (False, True):
        learning = trainer(episodes, tmp_path / str(floor), learner={"floor": floor}, steps=1)
        batch = learning._batch(learning._train, 256)
        targets = learning.learner.targets(batch, torch.Generator().manual_seed(0))
        assert batch.returns is not None
        below = targets < batch.returns - 1e-6
        assert bool(below.any()) is not floor  # an untrained V is near 0, returns are not
    with pytest.raises(ConfigError, match="needs the data's returns"):
        learning.learner.targets(dataclasses.replace(batch, returns=None), torch.Generator())


@pytest.mark.slow
def test_calibration_lifts_values_that_pessimism_pushes_below_the_returns(
    episodes: Path, tmp_path: Path
) -> None:
    # The same pessimism with and without the floor: calibrated values of the actor's actions end higher,
    # no lower on average than what the data earned.
    found = {}
    for constraint in ("conservative", "calibrated"):
        learner = {"constraint": constraint, "next_actions": 2, "constraint_actions": 2}
        learning = trainer(episodes, tmp_path / constraint, preset="cal_ql", learner=learner, steps=150)
        learning.train()
        batch = learning._batch(learning._train, 512)
        with torch.no_grad():
            here = learning.learner.act(batch.state, torch.Generator().manual_seed(0))
            found[constraint] = float(learning.policy.q(batch.state, here).mean())
            assert batch.returns is not None
            returns = float(batch.returns.mean())
    assert found["conservative"] < returns
    assert found["calibrated"] > found["conservative"] + 0.2 * (returns - found["conservative"])


def corrupted(share: float, seed: int, count: int = 4000) -> Batch:
    """One step pays the first action, but a share of the rewards is nonsense, 30 times too large."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.rand(count, 3, generator=generator) * 2 - 1
    action = torch.rand(count, 2, generator=generator) * 2 - 1
    nonsense = 30 * (2 * torch.rand(count, generator=generator) - 1)
    wrong = torch.rand(count, generator=generator) < share
    return Batch(
        state=state, action=action, reward=torch.where(wrong, nonsense, action[:, 0]),
        discount=torch.zeros(count), next_state=state,
    )  # fmt: skip


@pytest.mark.slow
def test_riql_learns_what_iql_cannot_from_corrupted_transitions() -> None:
    data, errors = corrupted(0.3, 0, 2000), {}
    truth = corrupted(0.0, 1)
    for preset, changes in (("iql", {}), ("riql", {"huber_delta": 0.1, "critics": 5})):
        config = learner_config({"preset": preset, **LEARNER, **changes})
        learner = ActorCritic(config, 3, 2, seed=0)
        generator = torch.Generator().manual_seed(0)
        for _ in range(250):
            index = torch.randint(2000, (128,), generator=generator)
            columns = ("state", "action", "reward", "discount", "next_state")
            learner.update(Batch(**{name: getattr(data, name)[index] for name in columns}), generator)
        with torch.no_grad():
            values = learner.aggregate(learner.critic(truth.state, truth.action), config.target, generator)
        errors[preset] = float((values - truth.reward).abs().mean())
    assert errors["riql"] < 0.4 * errors["iql"]


@pytest.mark.slow
def test_values_of_pixels_and_an_instruction(tmp_path: Path) -> None:
    collect(pixel_task(noise=0.5), tmp_path / "a.zarr", episodes=4, lanes=2, workers=0, progress=False)
    encoder = {"name": "vision", "backbone": "small", "channels": [16], "features": 8, "keypoints": 4,
               "text": {"name": "hashed", "buckets": 32, "size": 4}}  # fmt: skip
    learning = trainer(tmp_path / "a.zarr", tmp_path / "run", value={"encoder": encoder}, steps=3)
    before = {name: value.clone() for name, value in learning.policy.encoder.named_parameters()}
    policy = learning.train()
    assert {"position", "top_image", "instruction"} == policy.spec.observations.keys()
    changed = {
        name for name, value in policy.encoder.named_parameters() if not torch.equal(value, before[name])
    }
    assert any("cameras" in name for name in changed)
    assert any("text" in name for name in changed)
    resumed = trainer(tmp_path / "a.zarr", tmp_path / "run", value={"encoder": encoder}, steps=5)
    straight = trainer(tmp_path / "a.zarr", tmp_path / "whole", value={"encoder": encoder}, steps=5).train()
    for found, expected in zip(
        resumed.train().state_dict().values(), straight.state_dict().values(), strict=True
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": {"gamma": 1.5}}, "0 < gamma <= 1"),
        ({"value": {"action_horizon": 0}}, "action_horizon, n_step >= 1"),
        ({"value": {"convention": {"reward": "env"}}, "learner": {"floor": True}}, "bound nothing"),
        ({"steps": 0}, "steps, log_every >= 1"),
        ({"codec": {"action": "zscore"}}, r"encoded actions in \[-1, 1\]"),
        ({"learner": {"expectil": 0.7}}, "Unknown key 'expectil'"),
    ],
)
def test_settings_that_cannot_work(
    changes: dict[str, Any], message: str, episodes: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        trainer(episodes, tmp_path, **changes)


def test_a_policy_without_values_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", make("diffusion", sampler={"name": "ddim", "steps": 2}))
    with pytest.raises(CheckpointError, match=r"\(diffusion\) without values"):
        load_value(str(tmp_path / "c"))


def test_a_run_with_another_configuration_is_refused(episodes: Path, tmp_path: Path) -> None:
    trainer(episodes, tmp_path, steps=1).train()
    with pytest.raises(ConfigError, match=r"value\.gamma"):
        trainer(episodes, tmp_path, value={"gamma": 0.95}, steps=1)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match="seed 0, not 1"):
        trainer(episodes, tmp_path, steps=1, seed=1)


def test_it_is_a_policy_like_any_other(episodes: Path, tmp_path: Path) -> None:
    policy = trainer(episodes, tmp_path, steps=1).train()
    assert isinstance(robopolicy.load(tmp_path), ActorCriticPolicy)
    assert policy.provenance.task == TASK
