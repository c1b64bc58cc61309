"""This library's robosuite environments beside robosuite's own `step`: the same states, the same actions.

Both engines begin an episode from the same reset and take the same recorded actions, in turns of a few
control steps; where their states differ afterwards, nothing was compared and the benchmark fails. Physics
alone starts each turn from the recorded state too and is given the torques that robosuite's controller had
computed there, so that it meets the same contacts.

Times are of the processor, not of the clock, so that what else runs counts as little as possible.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from robopolicy.benchmark.equality import actor_of, has_expert
from robopolicy.env import make_env
from robopolicy.errors import RobopolicyError
from robopolicy.evaluation.statistics import DRAWS
from robopolicy.progress import progress_bar
from robopolicy.seeding import episode_seeds
from robopolicy.task import Task

__all__ = ["SAVINGS", "TURN", "WAYS", "against_robosuite"]

TURN = 10
"""Control steps that one side takes before it is another's turn."""
SAVINGS = ("matrices", "sensors", "marks")
WAYS = ("robosuite", "end", "stock", *(f"without {saving}" for saving in SAVINGS), "physics")
"""robosuite's own step; this library's with either way to observe; that with ``observe=end`` again, without
one of the fast engine's savings; and `mj_step` with recorded torques, as robosuite has it."""
_MOST_STEPS = 150
_STEPS_AFTER_SUCCESS = 10
_EQUAL = 1e-9


def against_robosuite(task: Task, *, episodes: int) -> dict[str, Any]:
    """Processor time of a control step in one process, and ratios with intervals over episodes.

    Episodes are those of the task's scripted expert, or of a hand pushed towards the object where there is
    none, on selection seeds.

    Raises:
        RobopolicyError: the engines' states have come apart.
    """
    sides = _Sides(task)
    spent: list[dict[str, float]] = []
    steps: list[int] = []
    turns = itertools.count()
    try:
        sides.play(sides.record(episode_seeds("practice", 1)[0]), turns)  # compiles, warms up
        for seed in progress_bar(episode_seeds("select", episodes), desc=f"{task.name}: beside", leave=False):
            recorded = sides.record(seed)
            spent.append(sides.play(recorded, turns))
            steps.append(len(recorded.actions))
    finally:
        sides.close()
    seconds = {way: np.array([found[way] for found in spent]) for way in WAYS}
    return {
        "task": task.name,
        "actions": "expert" if sides.scripted else "pushed hand",
        "episodes": episodes,
        "steps": sum(steps),
        "largest_difference": sides.largest,
        "ms": {way: float(f"{1e3 * values.sum() / sum(steps):.4g}") for way, values in seconds.items()},
        "ratio": {way: _ratio(seconds["robosuite"], seconds[way]) for way in WAYS[1:]},
    }


@dataclasses.dataclass(frozen=True)
class _Recorded:
    seed: int
    actions: list[np.ndarray]
    starts: list[tuple[np.ndarray, np.ndarray]]
    """MuJoCo's state and warm start before each turn."""
    torques: np.ndarray
    """`[T, physics steps, actuators]`"""


class _Sides:
    """Both environments, robosuite's, and its physics."""

    def __init__(self, task: Task) -> None:
        import mujoco
        import robosuite

        self.task = task
        self.ours: dict[str, Any] = {
            way: make_env(
                dataclasses.replace(task, env={**task.env, "observe": "stock" if way == "stock" else "end"})
            )
            for way in WAYS[1:-1]
        }
        for saving in SAVINGS:
            self.ours[f"without {saving}"].leave_out(saving)
        spec = self.ours["end"].robot_spec
        robots = spec.action.size // 7
        self.stock = robosuite.make(
            str(task.env["task"]),
            robots=["Panda"] * robots,
            controller_configs=[
                robosuite.load_composite_controller_config(robot="Panda") for _ in range(robots)
            ],
            control_freq=int(spec.control_hz),
            has_renderer=False,
            has_offscreen_renderer=False,
            use_camera_obs=False,
            renderer="mujoco",
            hard_reset=False,
            ignore_done=True,
            seed=0,
        )
        self.model, self.data = self.stock.sim.model._model, self.stock.sim.data._data
        self.scratch = mujoco.MjData(self.model)
        self.kind = mujoco.mjtState.mjSTATE_FULLPHYSICS
        self.scripted = has_expert(self.ours["end"], task)
        self.largest = {"qpos": 0.0, "qvel": 0.0}

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Everything to the start of an episode; what this library's environment sees there."""
        episode = int(np.random.default_rng(seed).integers(2**63))  # as RobosuiteEnv.reset draws it
        self.stock.rng.bit_generator.state = np.random.default_rng(episode).bit_generator.state
        self.stock.reset()
        seen: dict[str, dict[str, np.ndarray]] = {
            way: env.reset(seed=seed)[0] for way, env in self.ours.items()
        }
        return seen["end"]

    def record(self, seed: int) -> _Recorded:
        """An episode's actions, and what physics alone needs; not timed."""
        import mujoco

        env, sim, rng = self.ours["end"], self.stock.sim, np.random.default_rng(seed)
        observation = self.reset(seed)
        torques: list[np.ndarray] = []
        actions: list[np.ndarray] = []
        starts: list[tuple[np.ndarray, np.ndarray]] = []
        second_half = sim.step2

        def keep_torques() -> None:
            torques.append(self.data.ctrl.copy())
            second_half()

        sim.step2 = keep_torques
        act = actor_of(env, self.task, scripted=self.scripted, seed=seed, rng=rng)
        left = _MOST_STEPS if not self.scripted else self.task.horizon
        while left > 0:
            if len(actions) % TURN == 0:
                state = np.empty(mujoco.mj_stateSize(self.model, self.kind))
                mujoco.mj_getState(self.model, self.data, state, self.kind)
                starts.append((state, self.data.qacc_warmstart.copy()))
            action = act(observation)
            actions.append(action)
            self.stock.step(action)
            observation, _, _, _, info = env.step(action)
            left = min(left - 1, _STEPS_AFTER_SUCCESS) if info["success"] else left - 1
        sim.step2 = second_half
        shape = (len(actions), -1, self.model.nu)
        return _Recorded(seed, actions, starts, np.array(torques).reshape(shape))

    def play(self, recorded: _Recorded, turns: itertools.count[int]) -> dict[str, float]:
        """Processor seconds of each way over the episode."""
        from mujoco import rollout

        self.reset(recorded.seed)
        spent = dict.fromkeys(WAYS, 0.0)

        def physics(first: int, last: int) -> None:
            state, warm = recorded.starts[first // TURN]
            torques = recorded.torques[first:last].reshape(-1, self.model.nu)
            rollout.rollout(self.model, self.scratch, state, torques, initial_warmstart=warm)

        def stepping(step: Callable[[np.ndarray], object]) -> Callable[[int, int], None]:
            def take(first: int, last: int) -> None:
                for action in recorded.actions[first:last]:
                    step(action)

            return take

        ways = {"robosuite": stepping(self.stock.step), "physics": physics}
        ways |= {way: stepping(env.step) for way, env in self.ours.items()}
        for first in range(0, len(recorded.actions), TURN):
            last = min(first + TURN, len(recorded.actions))
            shift = next(turns) % len(WAYS)
            for way in (*WAYS[shift:], *WAYS[:shift]):
                started = time.process_time()
                ways[way](first, last)
                spent[way] += time.process_time() - started
            self._compare()
        return spent

    def close(self) -> None:
        """Free what the environments hold."""
        for env in self.ours.values():
            env.close()
        self.stock.close()

    def _compare(self) -> None:
        others = [self.scratch, *(env.simulation[1] for env in self.ours.values())]
        for key in self.largest:
            own = getattr(self.data, key)
            found = max(float(np.abs(getattr(data, key) - own).max()) for data in others)
            self.largest[key] = max(self.largest[key], found)
        if not max(self.largest.values()) <= _EQUAL:
            raise RobopolicyError(f"{self.task.name}: states have come apart by {self.largest}.")


def _ratio(stock: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """How many times as fast, with a 95% bootstrap interval over episodes `[E]`."""
    count = len(stock)
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    low, high = np.quantile((draws @ stock) / (draws @ other), [0.025, 0.975])
    found = {"value": stock.sum() / other.sum(), "low": low, "high": high}
    return {key: float(f"{value:.4g}") for key, value in found.items()}
