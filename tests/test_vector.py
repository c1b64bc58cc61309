from __future__ import annotations

import gc
import os
from typing import Any

import numpy as np
import pytest

from robopolicy.env import Observation
from robopolicy.errors import ConfigError, SpecMismatch
from robopolicy.registry import register
from robopolicy.vector import LaneVectorEnv, WorkerError
from tests.toy_env import ToyConfig, ToyEnv, toy_spec, toy_task

BAD_SEED = 13


class _Faulty(ToyEnv):
    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Observation, dict[str, Any]]:
        self.bad = seed == BAD_SEED
        return super().reset(seed=seed, options=options)


@register("env", "toy_dying")
class DyingEnv(_Faulty):
    """Its process ends in the first step of the bad seed."""

    def __init__(self, config: ToyConfig, *, task: Any) -> None:
        super().__init__(config, task=task)

    def step(self, action: np.ndarray) -> Any:
        if self.bad:
            os._exit(7)
        return super().step(action)


@register("env", "toy_raising")
class RaisingEnv(_Faulty):
    """Raises in the first step of the bad seed."""

    def __init__(self, config: ToyConfig, *, task: Any) -> None:
        super().__init__(config, task=task)

    def step(self, action: np.ndarray) -> Any:
        if self.bad:
            raise RuntimeError("the simulation exploded")
        return super().step(action)


@register("env", "toy_misshapen")
class MisshapenEnv(_Faulty):
    """Its observations do not have the spec's shapes, or lack a key on the bad seed."""

    def __init__(self, config: ToyConfig, *, task: Any) -> None:
        super().__init__(config, task=task)

    def step(self, action: np.ndarray) -> Any:
        observation, *rest = super().step(action)
        return observation | {"position": observation["position"][:1]}, *rest

    def _observation(self) -> Observation:
        observation = super()._observation()
        return {"goal": observation["goal"]} if getattr(self, "bad", False) else observation


def _roll(workers: int, lanes: int = 5, steps: int = 6) -> list[np.ndarray]:
    envs = LaneVectorEnv(toy_task(horizon=12), lanes, workers=workers, chunk=4)
    generator = np.random.default_rng(0)
    seen: list[np.ndarray] = []
    first, _ = envs.reset(seed=100)
    seen += list(first.values())
    for _ in range(steps):
        chunk = envs.step_chunk(generator.uniform(-1, 1, (lanes, 4, 2)).astype(np.float32))
        valid = np.arange(4) < chunk.steps[:, None]
        seen += [chunk.steps, chunk.terminated, chunk.truncated, chunk.rewards * valid]
        seen += [value * valid[..., None] for value in chunk.observations.values()]
        ended = chunk.terminated | chunk.truncated
        if ended.any():
            again, _ = envs.reset(seed=list(range(200, 200 + lanes)), options={"reset_mask": ended})
            seen += [value[ended] for value in again.values()]
    envs.close()
    return seen


def test_zero_one_and_two_workers_are_identical() -> None:
    reference = _roll(0)
    for workers in (1, 2, 9):
        for expected, found in zip(reference, _roll(workers), strict=True):
            np.testing.assert_array_equal(expected, found)


@pytest.mark.parametrize("workers", [0, 2])
def test_only_masked_lanes_are_reset(workers: int) -> None:
    envs = LaneVectorEnv(toy_task(), 3, workers=workers, chunk=2)
    before, _ = envs.reset(seed=0)
    envs.step_chunk(np.ones((3, 2, 2), np.float32))
    after, _ = envs.reset(seed=[50, 51, 52], options={"reset_mask": np.array([False, True, False])})
    fresh, _ = envs.reset(seed=[50, 51, 52])
    np.testing.assert_array_equal(after["position"][1], fresh["position"][1])
    np.testing.assert_array_equal(after["goal"][[0, 2]], before["goal"][[0, 2]])
    envs.close()


def test_reset_depends_on_the_seed_alone() -> None:
    envs = LaneVectorEnv(toy_task(), 2)
    first, _ = envs.reset(seed=[5, 6])
    envs.step_chunk(np.ones((2, 4, 2), np.float32))
    second, _ = envs.reset(seed=[6, 5])
    np.testing.assert_array_equal(first["position"], second["position"][::-1])
    envs.close()


def test_a_chunk_stops_where_its_episode_stops() -> None:
    envs = LaneVectorEnv(toy_task(horizon=6), 2, chunk=4)
    envs.reset(seed=0)
    still = np.zeros((2, 4, 2), np.float32)
    assert envs.step_chunk(still).steps.tolist() == [4, 4]
    last = envs.step_chunk(still)
    assert last.steps.tolist() == [2, 2]
    assert last.truncated.all()
    assert not last.terminated.any()
    envs.close()


def test_falling_off_terminates_and_is_not_a_success() -> None:
    envs = LaneVectorEnv(toy_task(env={"edge": 1.0}, horizon=100), 1, chunk=40)
    envs.reset(seed=3)
    step = envs.step_chunk(np.full((1, 40, 2), [1.0, 0.0], np.float32))
    count = int(step.steps[0])
    assert step.terminated[0]
    assert not step.truncated[0]
    assert step.observations["position"][0, count - 1, 0] > 1.0
    assert not step.success[0, count - 1]
    envs.close()


@pytest.mark.parametrize("hold", [0, 1, 5])
def test_success_ends_the_episode_after_the_hold(hold: int) -> None:
    envs = LaneVectorEnv(toy_task(success_hold=hold), 4, chunk=30)
    envs.reset(seed=0)
    step = envs.step_chunk(None, length=30)
    for lane in range(4):
        first = int(np.argmax(step.success[lane]))
        assert step.steps[lane] == first + 1 + hold
    assert step.terminated.all()
    assert not step.truncated.any()
    envs.close()


def test_success_need_not_end_the_episode() -> None:
    envs = LaneVectorEnv(toy_task(horizon=25), 2, chunk=30, success_hold=-1)
    envs.reset(seed=0)
    step = envs.step_chunk(None, length=30)
    assert step.success.any()
    assert step.steps.tolist() == [25, 25]
    assert step.truncated.all()
    envs.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_idle_lanes_do_not_move(workers: int) -> None:
    envs = LaneVectorEnv(toy_task(), 3, workers=workers, chunk=4)
    before, _ = envs.reset(seed=0)
    action = np.full((3, 1, 2), 0.25, np.float32)
    step = envs.step_chunk(action, active=np.array([True, False, False]))
    assert step.steps.tolist() == [1, 0, 0]
    step = envs.step_chunk(action)
    moved = step.observations["position"][:, 0] - before["position"]
    np.testing.assert_allclose(moved, [[0.05, 0.05], [0.025, 0.025], [0.025, 0.025]], atol=1e-6)
    envs.close()


def test_gymnasium_step_and_returned_arrays_are_copies() -> None:
    envs = LaneVectorEnv(toy_task(), 2)
    envs.reset(seed=0)
    first, rewards, terminated, truncated, infos = envs.step(np.ones((2, 2), np.float32))
    kept = first["position"].copy()
    envs.step(np.ones((2, 2), np.float32))
    np.testing.assert_array_equal(first["position"], kept)
    assert rewards.shape == terminated.shape == truncated.shape == infos["success"].shape == (2,)
    assert infos["success"].dtype == bool
    assert envs.single_observation_space["goal"].shape == (2,)
    envs.close()


def test_frames_are_seen_in_process_only() -> None:
    calls: list[int] = []
    envs = LaneVectorEnv(toy_task(), 2)
    envs.on_frame(lambda lane, env: calls.append(lane))
    envs.reset(seed=0)
    envs.step_chunk(np.zeros((2, 3, 2), np.float32), active=np.array([False, True]))
    assert calls == [0, 1, 1, 1, 1]
    envs.close()
    remote = LaneVectorEnv(toy_task(), 1, workers=1)
    with pytest.raises(ConfigError, match="workers=0"):
        remote.on_frame(None)
    remote.close()


def test_a_worker_that_dies_is_started_again_and_its_episodes_are_lost() -> None:
    envs = LaneVectorEnv(toy_task(env={"name": "toy_dying"}), 4, workers=2, chunk=2)
    twin = LaneVectorEnv(toy_task(), 4, chunk=2)
    seeds = [0, BAD_SEED, 2, 3]
    first, _ = envs.reset(seed=seeds)
    twin.reset(seed=seeds)
    action = np.full((4, 2, 2), 0.5, np.float32)
    with pytest.warns(UserWarning, match=r"worker 1 of task toy(.|\n)*exit code 7(.|\n)*2 episodes are lost"):
        step = envs.step_chunk(action)
    expected = twin.step_chunk(action)
    assert step.lost.tolist() == [False, True, False, True]
    assert step.steps.tolist() == [2, 0, 2, 0]
    assert not (step.terminated | step.truncated).any()
    np.testing.assert_array_equal(step.observations["position"][::2], expected.observations["position"][::2])
    again = envs.step_chunk(action, active=np.array([True, True, True, False]))
    assert again.lost.tolist() == [False, True, False, False]
    assert again.steps.tolist() == [2, 0, 2, 0]
    fresh, _ = envs.reset(seed=[9, 8, 9, 3], options={"reset_mask": np.array([False, True, False, True])})
    np.testing.assert_array_equal(fresh["position"][3], first["position"][3])
    assert not envs.step_chunk(action).lost.any()
    envs.close()


def test_a_worker_killed_between_two_calls_is_started_again() -> None:
    envs = LaneVectorEnv(toy_task(), 3, workers=3, chunk=2)
    envs.reset(seed=0)
    still = np.zeros((3, 2, 2), np.float32)

    def kill() -> None:
        envs._processes[1].kill()
        envs._processes[1].join()

    kill()
    with pytest.warns(UserWarning, match="worker 1"):
        envs.reset(seed=0)
    assert not envs.step_chunk(still).lost.any()
    kill()
    with pytest.warns(UserWarning, match="worker 1"):
        assert envs.step_chunk(still).lost.tolist() == [False, True, False]
    envs.close()


def test_a_worker_that_dies_again_and_again_is_named() -> None:
    envs = LaneVectorEnv(toy_task(env={"name": "toy_dying"}), 4, workers=2)
    still = np.zeros((4, 2, 2), np.float32)
    for _ in range(2):
        envs.reset(seed=[0, BAD_SEED, 2, 3])
        with pytest.warns(UserWarning, match="started again"):
            envs.step_chunk(still)
    envs.reset(seed=[0, BAD_SEED, 2, 3])
    with pytest.raises(WorkerError, match=r"worker 1 failed on task toy(.|\n)*exit code 7(.|\n)*2 times"):
        envs.step_chunk(still)
    assert envs.closed
    assert not any(process.is_alive() for process in envs._processes)


def test_an_error_in_a_worker_arrives_with_its_traceback() -> None:
    envs = LaneVectorEnv(toy_task(env={"name": "toy_raising"}), 3, workers=2)
    envs.reset(seed=[BAD_SEED, 1, 2])
    with pytest.raises(WorkerError, match=r"worker 0(.|\n)*Traceback(.|\n)*the simulation exploded"):
        envs.step_chunk(np.zeros((3, 2, 2), np.float32))


def test_actions_of_a_wrong_shape_are_refused() -> None:
    envs = LaneVectorEnv(toy_task(), 2, chunk=4)
    envs.reset(seed=0)
    for shape in ((3, 4, 2), (2, 4, 3)):
        with pytest.raises(ConfigError, match=r"\[2, Ta, 2\] actions, got"):
            envs.step_chunk(np.zeros(shape, np.float32))
    with pytest.raises(ConfigError, match="1 to 4 steps long here, got 5"):
        envs.step_chunk(np.zeros((2, 5, 2), np.float32))
    with pytest.raises(ConfigError, match="each of 2 lanes"):
        envs.reset(seed=[1, 2, 3])
    envs.close()


def test_actions_that_are_not_finite_are_refused() -> None:
    envs = LaneVectorEnv(toy_task(), 2, chunk=4)
    envs.reset(seed=0)
    action = np.zeros((2, 1, 2), np.float32)
    action[1] = np.nan
    with pytest.raises(ConfigError, match="toy is not finite"):
        envs.step_chunk(action)
    envs.step_chunk(action, active=np.array([True, False]))
    envs.close()


def test_observations_that_do_not_fit_the_spec_are_refused() -> None:
    envs = LaneVectorEnv(toy_task(env={"name": "toy_misshapen"}), 1)
    with pytest.raises(SpecMismatch, match=r"\['goal'\] given, the spec has \['goal', 'position'\]"):
        envs.reset(seed=BAD_SEED)
    envs.reset(seed=0)
    with pytest.raises(SpecMismatch, match=r"'position' has shape \[1\], the spec says \[2\]"):
        envs.step_chunk(np.zeros((1, 1, 2), np.float32))
    envs.close()


def test_impossible_sizes_are_refused() -> None:
    for lanes, workers, chunk in ((0, 0, 1), (1, -1, 1), (1, 0, 0)):
        with pytest.raises(ConfigError, match="Need lanes >= 1"):
            LaneVectorEnv(toy_task(), lanes, workers=workers, chunk=chunk)
    toy_spec().require(LaneVectorEnv(toy_task(), 1).robot_spec)


@register("env", "toy_circular")
class CircularEnv(ToyEnv):
    """Refers to itself, as simulators do."""

    def __init__(self, config: ToyConfig, *, task: Any) -> None:
        super().__init__(config, task=task)
        self.itself = self


def test_closed_environments_leave_the_memory() -> None:
    envs = LaneVectorEnv(toy_task(env={"name": "toy_circular"}), 10)
    envs.close()
    assert not [found for found in gc.get_objects() if isinstance(found, CircularEnv)]
