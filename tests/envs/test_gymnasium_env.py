"""Any gymnasium environment with box spaces."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs.check import assert_ok
from robopolicy.env import RobotEnv, make_env
from robopolicy.errors import ConfigError, MissingCapability
from robopolicy.task import Task

ID = "RobopolicyCart-v0"


class Cart(gymnasium.Env[Any, Any]):
    """A cart that should get past 1: success is told under another name, and the edge ends the episode."""

    observation_space = spaces.Dict(
        {"where": spaces.Box(-9, 9, (1,), np.float64), "eye": spaces.Box(0, 255, (4, 4, 3), np.uint8)}
    )
    metadata: ClassVar[dict[str, Any]] = {"render_fps": 10}

    def __init__(self, discrete: bool = False) -> None:
        self.action_space: Any = spaces.Discrete(2) if discrete else spaces.Box(-0.5, 0.5, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.where = float(self.np_random.uniform(-0.2, 0.2))
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.where += float(action[0])
        info = {"solved": np.bool_(self.where > 1)} if self.where > 0 else {}
        return self._observation(), self.where, bool(abs(self.where) > 3), False, info

    def _observation(self) -> Any:
        return {"where": np.array([self.where]), "eye": np.full((4, 4, 3), int(abs(self.where)), np.uint8)}


gymnasium.register(ID, entry_point=Cart, max_episode_steps=5)


def make(name: str, **config: Any) -> RobotEnv:
    return make_env(Task(name="t", env={"name": "gymnasium", "id": name, **config}, horizon=9))


def test_contract_of_a_registered_environment() -> None:
    assert_ok(make(ID, success="solved"))


def test_spec_follows_the_spaces() -> None:
    spec = make(ID).robot_spec
    assert spec.observations["eye"].kind == "image"
    assert spec.observations["where"].dtype == "float32"
    assert (spec.action.low, spec.action.high, spec.control_hz) == ((-0.5,), (0.5,), 10.0)


def test_success_reward_and_termination_come_from_the_environment() -> None:
    env = make(ID, success="solved")
    _, info = env.reset(seed=0)
    assert info["success"] is False  # a missing key is no success
    history = [env.step(np.array([9.0])) for _ in range(7)]  # clipped to 0.5; its limit of 5 steps is removed
    assert [history[i][4]["success"] for i in (0, 2, 3)] == [False, True, True]
    assert history[-1][2]
    assert not history[0][2]
    assert not any(step[3] for step in history)
    assert make(ID).reset(seed=0)[1]["success"] is False


def test_a_return_can_be_what_counts_as_success() -> None:
    env = make(ID, goal=3.0)
    for _ in range(2):  # the sum begins anew with every episode
        _, info = env.reset(seed=0)
        assert info["success"] is False
        paid = 0.0
        for _ in range(4):
            _, reward, *_, info = env.step(np.array([0.5]))
            paid += reward
            assert info["success"] == (paid >= 3.0)
        assert info["success"]


@pytest.mark.sim
def test_pusher_from_its_id_alone() -> None:
    env = make("Pusher-v5")
    assert_ok(env)
    assert list(env.robot_spec.observations) == ["state"]
    assert env.robot_spec.control_hz == 20.0


def test_misuse_is_explained() -> None:
    with pytest.raises(ConfigError, match="CartPole"):
        make("CartPoll-v1")
    with pytest.raises(ConfigError, match="nowhere"):
        make("nowhere:Cart-v0")
    with pytest.raises(ConfigError, match="action must be a Box"):
        make(ID, kwargs={"discrete": True})
    with pytest.raises(ConfigError, match="speed"):
        make(ID, kwargs={"speed": 1})
    with pytest.raises(ConfigError, match="camera"):
        make_env(Task(name="t", env={"name": "gymnasium", "id": ID}, horizon=9, cameras=("front",)))
    with pytest.raises(MissingCapability, match="render"):
        make(ID).render_frame()
