"""What is made of a policy's chunk, without a robot. On one: test_session.py."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardware.command_map import CommandMap
from hardware.deploy import DeployConfig, _load
from hardware.executor import Executor, ExecutorConfig
from hardware.messages import ActionChunk, Observation
from hardware.observe import Observer
from robopolicy.errors import ConfigError
from robopolicy.rollout import LaneView
from robopolicy.steering import several
from tests.hardware.fakes import small_spec
from tests.hardware.test_session import ACTION, SPEC, Straight
from tests.rl.toy_policy import saved, toy_policy


class Link:
    """A robot that stands still and keeps the chunks that it is sent."""

    def __init__(self, spec: Any) -> None:
        self.spec, self.sent = spec, []  # type: ignore[var-annotated]

    def observe(self, count: int = 1) -> list[Observation]:
        now, still = time.monotonic_ns(), np.zeros(2)
        return [Observation(seq=1, t_ns=now, q=still, dq=still, tau=still)]

    def submit(self, chunk: ActionChunk) -> None:
        self.sent.append(chunk)


@pytest.mark.parametrize("matching", [True, False])
def test_actions_are_sent_as_much_later_as_they_are_reached_in_training(matching: bool) -> None:
    starts = []
    for lag_s in (0.0, 0.08):
        robot = small_spec(observations={"q": ["joints.position"]}, command_map={"lag_s": lag_s})
        link = Link(robot)
        config = ExecutorConfig(latency_matching=matching, delay_s=0.02)
        observer = Observer(robot, SPEC, matching=matching)
        executor = Executor(Straight(), link, observer, CommandMap(robot, ACTION), config, replan=4)  # type: ignore[arg-type]
        plan = executor.step()
        (chunk,) = link.sent
        assert chunk.t_obs_ns == plan.t_obs_ns
        starts.append(1e-9 * (chunk.t0_ns - chunk.t_obs_ns))
    if matching:
        assert starts == pytest.approx([0.0, 0.08], abs=1e-9)
    else:
        assert starts[0] >= 0.02
        assert starts[1] >= 0.1
    with pytest.raises(ConfigError, match=r"lag_s must be in \[0, 1\)"):
        CommandMap(small_spec(command_map={"lag_s": 2.0}), ACTION)


class Numbered:
    """Row i of its k-th chunk is 10 k + i; it keeps what it was told of the past."""

    obs_horizon, action_horizon, spec = 5, 8, SPEC

    def __init__(self) -> None:
        self.told: list[Any] = []

    def act(self, view: LaneView) -> np.ndarray:
        self.told.append(view.executed)
        rows = 10.0 * len(self.told) + np.arange(self.action_horizon)
        return np.repeat(rows[None, :, None], 2, axis=2).astype(np.float32)


class Passing:
    """Observations of times that the test sets; the policy answers at once."""

    def __init__(self, observer: Observer) -> None:
        self.robot, self.streams, self.silent, self.add = observer.robot, (), [], observer.add
        self.begin, self.joints, self.now = observer.begin, observer.joints, 0

    def observe(self, count: int, dt_ns: int, now_ns: int) -> tuple[dict[str, np.ndarray], int]:
        return {"q": np.zeros((count, 2), np.float32)}, self.now


@pytest.mark.parametrize("matching", [True, False])
def test_a_policy_is_told_what_was_played(matching: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunk that had arrived by each time, its row of that time; nothing before the first."""
    robot = small_spec(observations={"q": ["joints.position"]})
    actor, clock = Numbered(), [0]
    observer = Passing(Observer(robot, SPEC, matching=matching))
    executor = Executor(
        actor, Link(robot), observer, CommandMap(robot, ACTION),  # type: ignore[arg-type]
        ExecutorConfig(latency_matching=matching), replan=2,
    )  # fmt: skip
    dt_ns = executor.dt_ns
    monkeypatch.setattr(executor, "collect", list)
    monkeypatch.setattr(observer, "joints", lambda t_ns: (np.zeros(2), np.zeros(2)))
    monkeypatch.setattr("hardware.executor.time.monotonic_ns", lambda: clock[0])
    begin = 100 * dt_ns
    for step in (0, 2, 4, 9):  # what is seen is one step old by the time that a chunk is made of it
        observer.now, clock[0] = begin + step * dt_ns, begin + (step + 1) * dt_ns
        executor.step()
    told = [rows[0, :, 0].tolist() for rows in actor.told]
    none = float("nan")
    # Chunks arrive at steps 1, 3, 5: row i is for i steps after what was seen, or after the arrival.
    late = 0 if matching else 1
    expected = [
        [none] * 4,
        [none, none, none, 11 - late],
        [none, 11 - late, 12 - late, 21 - late],
        [31 - late, 32 - late, 33 - late, 34 - late],
    ]
    np.testing.assert_array_equal(told, expected)


def test_nobody_knows_what_was_played_of_an_ensemble() -> None:
    robot, actor = small_spec(observations={"q": ["joints.position"]}), Numbered()
    executor = Executor(
        actor, Link(robot), Observer(robot, SPEC), CommandMap(robot, ACTION),  # type: ignore[arg-type]
        ExecutorConfig(mode="ensemble"), replan=2,
    )  # fmt: skip
    executor.step()
    assert actor.told == [None]


def test_only_as_many_candidates_are_verified_as_there_is_time_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four steps of a tenth of a second are between two chunks."""
    base = saved(toy_policy(obs_horizon=2, pred_horizon=8), tmp_path / "policy")
    monkeypatch.setattr(several, "seconds_per_chunk", lambda policy: 0.1 * policy.config.candidates)
    config = DeployConfig(
        robot=small_spec(), checkpoint=str(base), steer={"name": "past_verified", "candidates": 10}
    )
    with pytest.warns(UserWarning, match=r"10 candidates do not fit into 400\.0 ms; 2 take 200\.0 ms"):
        policy = _load(config)
    assert policy.config.candidates == 2  # type: ignore[attr-defined]
