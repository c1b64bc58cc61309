"""Episodes by a person: in an environment, and on a robot without a wire."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardware.record import reason_names
from hardware.session import SessionConfig
from hardware.teleop.device import Motion, Scripted
from hardware.teleop.human import HumanConfig
from hardware.teleop.rigs import EnvRig
from hardware.teleop.run import TeleoperateConfig, teleoperate
from robopolicy.data.store import EpisodeStore
from robopolicy.env import make_env
from robopolicy.errors import ConfigError, DataError, SpecMismatch
from robopolicy.learning.checkpoint import save_checkpoint
from robopolicy.learning.train import TrainConfig, prepare
from robopolicy.learning.trainer import TrainerConfig
from robopolicy.policies.policy import Provenance
from robopolicy.seeding import episode_seeds
from robopolicy.task import Task
from tests.hardware.test_deploy import checkpoint as robot_checkpoint
from tests.hardware.test_session import robot
from tests.policies.toys import HORIZONS, NETWORK, make
from tests.toy_env import toy_spec, toy_task

STILL, DONE, QUIT = Motion(), Motion(event="done"), Motion(event="quit")


def right(share: float = 1.0) -> Motion:
    return Motion(np.array([share, 0.0, 0.0]))


def settings(directory: Path, **changes: Any) -> TeleoperateConfig:
    values: dict[str, Any] = {
        "device": {"name": "scripted"},
        "task": toy_task().to_dict(),
        "episodes": 1,
        "out": str(directory / "driven.zarr"),
        "human": HumanConfig(delta_share=1.0),
        **changes,
    }
    return TeleoperateConfig(**values)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Environments run as fast as they can; robots have their own time."""
    if "_robot" not in request.node.name:
        monkeypatch.setattr("hardware.teleop.rigs.time.sleep", lambda seconds: None)


def toward_goal(seed: int) -> list[Motion]:
    """How the toy task of a seed is solved."""
    env = make_env(toy_task())
    seen, _ = env.reset(seed=seed)
    expert, motions = env.expert(seed, {}), []
    for _ in range(40):
        action = expert.act(seen)
        motions.append(Motion(np.append(action, 0.0)))
        seen, *_ = env.step(action)
    return motions


def test_a_person_solves_the_task_and_the_store_trains_a_policy(tmp_path: Path) -> None:
    seeds = episode_seeds("collect", 2)
    config = settings(tmp_path, success_hold=2)
    (first,) = teleoperate(config, device=Scripted(toward_goal(seeds[0])))
    assert first.seed == seeds[0]
    assert first.success
    assert first.by_person == first.steps
    (second,) = teleoperate(
        settings(tmp_path, episodes=2, success_hold=2), device=Scripted(toward_goal(seeds[1]))
    )
    assert second.seed == seeds[1]  # the store is gone on with
    store = EpisodeStore.open(tmp_path / "driven.zarr")
    assert store.successes.tolist() == [1, 1]
    assert store.instructions == ["go to the goal"] * 2
    assert Task.from_dict(store.task or {}) == toy_task()
    episode = store.episode(0)
    np.testing.assert_array_equal(episode["takeover"], 1.0)
    np.testing.assert_array_equal(episode["sent"], episode["action"])
    moved = np.diff(episode["position"], axis=0)
    np.testing.assert_allclose(moved, 0.1 * episode["action"][:-1], atol=1e-6)
    assert (episode["latency"] >= 0).all()
    trainer = prepare(
        TrainConfig(
            policy={"name": "diffusion", "network": NETWORK, **HORIZONS},
            trainer=TrainerConfig(steps=2, batch_size=8),
            data=str(tmp_path / "driven.zarr"),
            validation=0.0,
            out=str(tmp_path / "run"),
        ),
        progress=False,
    )
    trainer.train()
    assert set(trainer.policy.spec.observations) == {"position", "goal"}
    assert trainer.policy.provenance.used_seeds == tuple(seeds)


def test_what_an_environment_does_not_take_is_recorded_with_the_reason(tmp_path: Path) -> None:
    rig = EnvRig(toy_task(), tmp_path / "driven.zarr")
    rig.reset(0)
    rig.submit(np.array([[0.5, 0.0], [3.0, 0.0]]), rig.history(1)[1])
    for _ in range(3):  # the last row is held
        rig.step(takeover=False)
    rig.writer.commit()
    episode = EpisodeStore.open(tmp_path / "driven.zarr").episode(0)
    np.testing.assert_allclose(episode["action"][:, 0], [0.5, 3.0, 3.0])
    np.testing.assert_allclose(episode["sent"][:, 0], [0.5, 1.0, 1.0])
    assert [reason_names(int(bits)) for bits in episode["reasons"]] == [(), ("position",), ("position",)]
    assert episode["takeover"].tolist() == [0, 0, 0]
    history, _ = rig.history(6)
    np.testing.assert_allclose(history["position"][0, 1], history["position"][0, 2])


def test_a_store_of_something_else_is_not_added_to(tmp_path: Path) -> None:
    arrays = {"position": np.zeros((5, 2)), "action": np.zeros((5, 2))}
    EpisodeStore.from_arrays(tmp_path / "driven.zarr", [arrays], control_hz=10)
    with pytest.raises(SpecMismatch, match="observation 'goal': missing"):
        teleoperate(settings(tmp_path), device=Scripted([]))
    goal = {"goal": np.zeros((5, 2)), **arrays}
    EpisodeStore.create(tmp_path / "bare.zarr", toy_spec()).append(
        {key: value.astype(np.float32) for key, value in goal.items()}
    )
    with pytest.raises(DataError, match="has the columns"):
        teleoperate(settings(tmp_path, out=str(tmp_path / "bare.zarr")), device=Scripted([]))


def test_an_episode_is_thrown_away_or_the_session_ends(tmp_path: Path) -> None:
    discard = Motion(event="discard")
    device = Scripted([right(), discard, right(0.5), right(0.5), DONE, right(), QUIT])
    said: list[str] = []
    kept = teleoperate(settings(tmp_path, episodes=5), device=device, say=said.append)
    assert [episode.steps for episode in kept] == [2]
    assert not kept[0].success
    assert sum("thrown away" in line for line in said) == 2
    store = EpisodeStore.open(tmp_path / "driven.zarr")
    assert store.seeds.tolist() == episode_seeds("collect", 2)[1:]
    np.testing.assert_allclose(store.episode(0)["action"], [[0.5, 0.0], [0.5, 0.0]])


def checkpoint(directory: Path, **provenance: Any) -> str:
    policy = make("diffusion", spec=toy_spec(), network=NETWORK, sampler={"name": "ddim", "steps": 2})
    policy.provenance = Provenance(**{"task": toy_task(), **provenance})
    save_checkpoint(directory / "policy", policy)
    return str(directory / "policy")


def test_a_person_takes_over_by_touching_and_gives_back_by_letting_go(tmp_path: Path) -> None:
    torch.manual_seed(0)
    motions = [*[STILL] * 6, right(), right(), *[STILL] * 9, right(), Motion(event="hand_back"), *[STILL] * 3]
    config = settings(
        tmp_path, task=None, checkpoint=checkpoint(tmp_path), release_s=0.5, success_hold=100, seconds=10.0
    )
    (episode,) = teleoperate(config, device=Scripted([*motions, DONE]))
    assert episode.steps == 22
    store = EpisodeStore.open(tmp_path / "driven.zarr")
    # Two steps of touching and four of patience; then one, and it is handed back at once.
    wanted = [0] * 6 + [1] * 6 + [0] * 5 + [1] + [0] * 4
    assert store.episode(0)["takeover"].astype(int).tolist() == wanted
    assert episode.by_person == sum(wanted)
    by_hand = store.episode(0)["action"][6:8]
    np.testing.assert_allclose(by_hand, [[1, 0], [1, 0]])
    by_policy = store.episode(0)["action"][:6]
    assert len(np.unique(by_policy[:, 0])) == 6  # a chunk is not held, it is played


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to drive"):
        settings(tmp_path, task=None)
    with pytest.raises(ConfigError, match="episodes >= 1"):
        settings(tmp_path, episodes=0)
    with pytest.raises(ConfigError, match="release_s > 0"):
        settings(tmp_path, release_s=0.0)
    without = settings(tmp_path, task=None, checkpoint=checkpoint(tmp_path, task=None))
    with pytest.raises(ConfigError, match="has no task"):
        teleoperate(without, device=Scripted([]))


def test_a_policy_and_a_person_share_a_robot(tmp_path: Path) -> None:
    """On a robot, where chunks go by time."""
    config = settings(
        tmp_path,
        task=None,
        checkpoint=robot_checkpoint(tmp_path),
        robot=robot(),
        session=SessionConfig(operator="ada"),
        release_s=0.1,
        seconds=2.0,
    )
    motions = [*[STILL] * 10, *[right(-1.0)] * 4, *[STILL] * 12, DONE]
    (episode,) = teleoperate(config, device=Scripted(motions, ["", "n"]))
    assert not episode.success
    recorded = EpisodeStore.open(tmp_path / "driven.zarr").episode(0)
    taken = recorded["takeover"].astype(bool)
    assert taken.tolist() == [False] * 10 + [True] * 5 + [False] * 11
    by_hand = recorded["action"][taken, 0]
    measured = recorded["measured"][taken, 0]
    assert by_hand[0] == pytest.approx(measured[0], abs=0.15)  # from where it was
    np.testing.assert_allclose(np.diff(by_hand[:4]), -0.025, atol=1e-5)


def test_joints_on_a_robot_behind_the_guard(tmp_path: Path) -> None:
    config = settings(
        tmp_path,
        task=None,
        robot=robot(),
        human=HumanConfig(joint_speed=4.0),
        session=SessionConfig(operator="ada"),
        seconds=1.0,
        out=str(tmp_path / "robot.zarr"),
    )
    device = Scripted([right()] * 10 + [STILL] * 4 + [DONE], ["", "y", ""])
    (episode,) = teleoperate(config, device=device)
    assert episode.success  # the operator said so
    assert any("did it succeed" in text for text in device.asked)
    store = EpisodeStore.open(tmp_path / "robot.zarr")
    recorded = store.episode(0)
    assert recorded["takeover"].all()
    assert recorded["action"][-1, 0] > 1.5  # asked for
    assert 0.3 < recorded["measured"][-1, 0] < recorded["action"][-1, 0]
    assert np.abs(recorded["sent"][-1, 0] - recorded["measured"][-1, 0]) < 0.1
    reasons = {name for bits in recorded["reasons"] for name in reason_names(int(bits))}
    assert "velocity" in reasons or "acceleration" in reasons
    assert recorded["latency"][:, 0].max() < 1.0
