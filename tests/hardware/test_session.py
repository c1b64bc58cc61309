"""Sessions, executors and lanes on a robot without a wire."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardware.command_map import CommandMap
from hardware.executor import Executor, ExecutorConfig
from hardware.lane import RobotLane
from hardware.observe import Observer
from hardware.record import EpisodeRecorder, reason_names
from hardware.robot import RobotError
from hardware.session import Session, SessionConfig
from hardware.spec import LifeState, RobotSpec
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError, SpecMismatch
from robopolicy.evaluation.evaluate import evaluate
from robopolicy.rollout import ChunkRunner, LaneView
from robopolicy.spec import ActionPart, ActionSpec, ObservationSpec, Spec
from robopolicy.task import Task
from tests.hardware.fakes import small_spec

ACTION = ActionSpec(
    names=("shoulder", "elbow"),
    low=(-2.0, -2.0),
    high=(2.0, 2.0),
    representation="joint_position",
    parts=(ActionPart(kind="joint", size=2),),
)
SPEC = Spec(observations={"q": ObservationSpec(shape=(2,))}, action=ACTION, control_hz=20.0)
TASK = Task(name="reach", env={"name": "none"}, horizon=12, success_hold=2)
GOAL = np.array([0.3, -0.2])


def robot(**changes: Any) -> RobotSpec:
    return small_spec(observations={"q": ["joints.position"]}, policy_timeout_s=1.0, **changes)


class Operator:
    """Answers what a session asks."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, text: str) -> str:
        self.asked.append(text)
        return "ada" if "name" in text else "y" if "succeed" in text else ""


class Straight:
    """Asks for a straight line from what it saw to the goal."""

    obs_horizon, action_horizon = 2, 8
    spec: Spec | None = SPEC

    def __init__(self) -> None:
        self.seen: list[LaneView] = []

    def act(self, view: LaneView) -> np.ndarray:
        self.seen.append(view)
        here = view.observation["q"][0, -1]
        share = np.arange(self.action_horizon)[:, None] / (self.action_horizon - 1)
        return (here + share * (GOAL - here))[None].astype(np.float32)


@pytest.fixture
def operator() -> Operator:
    return Operator()


@pytest.fixture
def session(tmp_path: Path, operator: Operator) -> Iterator[Session]:
    with Session(robot(), tmp_path / "run", SessionConfig(), ask=operator) as session:
        yield session


def test_arming_is_tried_again_but_not_for_ever(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    arm, refusals = session.link.arm, [2]

    def late() -> None:
        if refusals[0]:
            refusals[0] -= 1
            raise RobotError("small cannot arm: the last observation is too old.")
        arm()

    monkeypatch.setattr(session.link, "arm", late)
    session.reset(seed=0)
    assert refusals[0] == 0
    assert session.link.state in (LifeState.RUNNING, LifeState.HOLD)
    session.finish()
    refusals[0] = 99
    with pytest.raises(RobotError, match="too old"):
        session.reset(seed=1)
    assert refusals[0] == 96


def test_a_real_robot_needs_its_emergency_stop_acknowledged(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not(hing here is)? safety-rated.*session.hardware_estop=true"):
        Session(robot(real=True), tmp_path, SessionConfig())


def test_between_episodes_a_person_puts_things_in_order(session: Session, operator: Operator) -> None:
    session.reset(0)
    assert session.link.state in (LifeState.RUNNING, LifeState.HOLD)
    session.finish()
    session.finish()
    assert session.link.ticks()[-1]["latched"] == "the episode is over"
    session.reset(1)
    assert operator.asked[0].startswith("Ready. Put the scene in order")
    assert "the episode is over" in operator.asked[1]
    assert "name" in operator.asked[2]
    assert session.judge(1) is True
    with pytest.raises(SpecMismatch, match=r"Nothing has come from object of small for .* deliver: none"):
        session.reset(2, wait_for=lambda: ["object"])


def run(session: Session, config: ExecutorConfig, seconds: float) -> tuple[Executor, Straight]:
    actor = Straight()
    observer = Observer(session.robot, SPEC, matching=config.latency_matching)
    executor = Executor(actor, session.link, observer, CommandMap(session.robot, ACTION), config, replan=4)
    session.reset(0)
    executor.begin(7)
    while executor.collect():
        time.sleep(0.002)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if executor.due:
            executor.step()
        time.sleep(0.005)
    return executor, actor


@pytest.mark.parametrize("mode", ["chunks", "ensemble"])
def test_the_executor_gets_there(session: Session, mode: Any) -> None:
    executor, actor = run(session, ExecutorConfig(mode=mode), 1.5)
    np.testing.assert_allclose(session.link.observe()[-1].q, GOAL, atol=0.02)
    steps = [int(view.time[0]) for view in actor.seen]
    assert steps[0] == 0
    assert (np.diff(steps) > 0).all()
    assert {int(view.seeds[0]) for view in actor.seen} == {7}
    expected = 1.5 / (0.05 if mode == "ensemble" else 0.2)
    assert 0.4 * expected <= len(steps) <= expected + 2
    assert executor.latency.seconds < 1.0


def test_late_chunks_begin_where_they_should_be_only_with_matching(session: Session) -> None:
    plans = []
    for matching in (True, False):
        executor, _ = run(session, ExecutorConfig(latency_matching=matching, delay_s=0.2), 0.3)
        chunk = session.link._chunks.newest()
        assert chunk is not None
        assert executor.plan is not None
        plans.append(1e-9 * (int(chunk[1]["t0_ns"]) - executor.plan.t_obs_ns))
    assert plans[0] == 0.0
    assert plans[1] >= 0.2


def test_rtc_needs_an_actor_that_can(session: Session) -> None:
    with pytest.raises(ConfigError, match="mode=rtc needs an actor that continues chunks, not Straight"):
        run(session, ExecutorConfig(mode="rtc"), 0.0)
    with pytest.raises(ConfigError, match=r"delay_s in \[0, 2\)"):
        ExecutorConfig(delay_s=3.0)


def test_a_robot_is_evaluated_like_a_simulator(session: Session, tmp_path: Path, operator: Operator) -> None:
    recorder = EpisodeRecorder(tmp_path / "robot.zarr", SPEC, session.robot)
    lane = RobotLane(session, TASK, SPEC, chunk=8, recorder=recorder)
    found = evaluate(Straight(), TASK, envs=lane, seeds=[5, 6], progress=False)
    assert found.success_rate == 1.0  # a person said so
    assert [row.steps for row in found.rows] == [12, 12]
    assert sum("succeed" in text for text in operator.asked) == 2
    store = EpisodeStore.open(tmp_path / "robot.zarr")
    assert store.seeds.tolist() == [5, 6]
    episode = store.episode(0)
    np.testing.assert_allclose(episode["q"][-1], GOAL, atol=0.1)
    np.testing.assert_allclose(episode["action"][7], GOAL, atol=1e-6)
    assert np.abs(episode["sent"][-1, :2] - GOAL).max() < 0.05
    lane.close()
    assert session.link.ticks()[-1]["latched"]


def test_a_trip_truncates_and_never_terminates(session: Session) -> None:
    lane = RobotLane(session, TASK, SPEC, chunk=8)
    runner = ChunkRunner(lane, obs_horizon=2, action_horizon=8)
    runner.reset(np.ones(1, bool), np.array([3]))
    far = np.repeat(np.array([[[1.9, 1.9]]], np.float32), 8, axis=1)
    first = runner.step(far).step
    assert not first.truncated[0]
    assert "velocity" in reason_names(int(first.reasons[0, 0]))  # type: ignore[attr-defined]
    assert np.abs(first.sent[0, -1] - far[0, -1]).min() > 0.3  # type: ignore[attr-defined]
    session.link.stop(reason="somebody came in")
    time.sleep(0.1)
    step = runner.step(far).step
    assert step.truncated[0]
    assert not step.terminated[0]
    assert step.steps[0] == 1
    assert step.stopped == "somebody came in"  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="not finite"):
        lane.step_chunk(np.full((1, 8, 2), np.nan))
    with pytest.raises(ConfigError, match=r"\[1, 1 to 8, 2\]"):
        lane.step_chunk(np.zeros((1, 9, 2)))
    with pytest.raises(ConfigError, match="no scripted expert"):
        lane.step_chunk(None)
