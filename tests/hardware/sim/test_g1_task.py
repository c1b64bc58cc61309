"""Tasks around the simulated G1 are those of the environments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="DDS is the extra robopolicy[ros]")

import envs  # noqa: F401
from envs.g1_env import G1Env
from hardware.sim.g1 import STATE_HZ, G1Settings, SimulatedG1
from hardware.sim.ros2_arm import load_task
from hardware.spec import RobotSpec
from hardware.transport.dds import LATCHED, RELIABLE, SENSOR, STATE, Participant
from hardware.transport.idl_ros import Bool, Int64, PoseStamped
from robopolicy import registry
from robopolicy.errors import ConfigError
from tests.hardware.wire import free_network

pytestmark = pytest.mark.sim

SEED = 7
PERIOD_NS = 1_000_000_000 // STATE_HZ


def environment(name: str) -> G1Env:
    task = load_task(name)
    env = registry.build("env", task.env, task=task)
    assert isinstance(env, G1Env)
    env.reset(seed=SEED)
    return env


class World:
    """A simulated G1 with a task, and who listens to it."""

    def __init__(self, name: str) -> None:
        network = free_network()
        self.participant, self.other = Participant(network), Participant(network)
        self.g1 = SimulatedG1(G1Settings(task=name), self.participant)
        self.resets = self.other.writer("rt/sim/reset", Int64, RELIABLE)
        self.episode = self.other.reader("rt/sim/episode", Int64, LATCHED)
        self.success = self.other.reader("rt/sim/success", Bool, STATE)
        self.resets.wait_matched(5.0)
        self.episode.wait_matched(5.0)
        self.success.wait_matched(5.0)
        self.now = 10**18

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            self.now += PERIOD_NS
            self.g1.step(self.now)

    def begin(self, seed: int) -> None:
        self.episode.take()
        self.resets.write(Int64(seed))
        for _ in range(1000):
            self.step()
            if any(message.data == seed for message in self.episode.take()):
                return
        raise AssertionError(f"episode {seed} never began")

    @property
    def posture(self) -> np.ndarray:
        return self.g1.data.qpos[self.g1._q[12:]]

    def judged(self) -> bool:
        self.success.take()
        self.step(STATE_HZ // 10)
        assert self.success.wait(2.0)
        newest = self.success.latest()
        assert newest is not None
        return newest.data

    def close(self) -> None:
        self.other.close()
        self.participant.close()


@pytest.fixture(params=["g1_reach", "g1_box"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def world(name: str) -> Iterator[World]:
    world = World(name)
    yield world
    world.close()


def test_an_episode_begins_as_in_the_environment_and_is_held(world: World, name: str) -> None:
    env = environment(name)
    things: dict[str, Any] = {"box": env.box[0]} if name == "g1_box" else {}
    if name == "g1_reach":
        things = {f"{side}_target": place for side, place in zip(("left", "right"), env.targets, strict=True)}
    readers = {thing: world.other.reader(f"rt/{thing}_pose", PoseStamped, SENSOR) for thing in things}
    for reader in readers.values():
        reader.wait_matched(5.0)
    world.begin(SEED)
    np.testing.assert_allclose(world.posture, env.posture, atol=2e-3)
    world.step(STATE_HZ // 5)
    for thing, reader in readers.items():
        assert reader.wait(2.0)
        pose = reader.latest()
        assert pose is not None
        place = pose.pose.position
        np.testing.assert_allclose([place.x, place.y, place.z], things[thing], atol=2e-3)
        assert pose.header.frame_id == "pelvis"
    world.step(STATE_HZ // 2)
    np.testing.assert_allclose(world.posture, env.posture, atol=0.03)


def test_success_is_what_the_environment_calls_so(world: World, name: str) -> None:
    env = environment(name)
    expert = env.expert(SEED, {})
    observation = env._observe()
    for _ in range(env.task.horizon):
        observation, _, _, _, info = env.step(expert.act(observation))
        if info["success"]:
            break
    assert info["success"]
    world.begin(SEED)
    assert not world.judged()
    data, task = world.g1.data, world.g1.task
    assert task is not None
    if name == "g1_box":
        data.joint("box").qpos = env.simulation.joint("box").qpos
        data.joint("box").qpos[:3] += task._origin - env.g1.origin
    world.success.take()
    task.judge(env.posture, np.zeros(17), data)
    assert world.success.wait(2.0)
    newest = world.success.latest()
    assert newest is not None
    assert newest.data


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="hung"):
        G1Settings(task="g1_reach", hung=False)
    with Participant(free_network()) as participant, pytest.raises(ConfigError, match="no task of the G1"):
        SimulatedG1(G1Settings(task="avoidance"), participant)


@pytest.mark.slow
def test_a_policy_is_deployed(tmp_path: Path) -> None:
    from hardware.deploy import DeployConfig, deploy
    from hardware.session import SessionConfig
    from robopolicy.data.store import EpisodeStore
    from tests.hardware.test_deploy import checkpoint

    env = environment("g1_reach")
    config = DeployConfig(
        robot=RobotSpec.load("g1_arms_sim"),
        checkpoint=checkpoint(tmp_path, env.robot_spec, task=env.task),
        horizon=20,
        block="collect",
        offset=SEED,
        out=str(tmp_path / "out"),
        session=SessionConfig(simulator={"task": "g1_reach"}),
    )
    (episode,) = deploy(config, say=lambda line: None)
    assert episode.steps >= 20 or episode.tripped
    recorded = EpisodeStore.open(tmp_path / "out" / "episodes.zarr").episode(0)
    np.testing.assert_allclose(recorded["left_target"][0], env.targets[0], atol=1e-5)
    np.testing.assert_allclose(recorded["joint_positions"][0], env.posture, atol=0.15)
