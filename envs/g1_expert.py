"""Demonstrators for the G1 tasks: hands led along smooth paths, joints found by damped least squares."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import mujoco
import numpy as np

from envs.g1_env import CONTROL_HZ, G1Env
from envs.g1_model import BOX, G1, HAND_RADIUS, HOME, JOINTS, TABLE_Z
from robopolicy import seeding
from robopolicy.env import Observation
from robopolicy.errors import ConfigError

__all__ = ["Arms", "G1Expert", "G1ExpertConfig", "Goal", "Script"]

_MEMORY = 0.9
"""Of the wandering, from step to step."""
_SECONDS = 1.0 / CONTROL_HZ
_FASTEST = 4.0
"""Of a joint, rad/s: what the robot's guard lets through (6 rad/s), or a policy learns what it may not do."""
_DAMPING = 0.03
_MARGIN = 0.05
"""Kept from the joints' limits, rad."""
_ELBOWS_OUT = {"left_shoulder_roll_joint": 0.5, "right_shoulder_roll_joint": -0.5}
_TOE_IN = 0.2
"""How far hands that hold the box point towards each other, rad: fingers touch before the wrists do."""
_SIDES = np.array([1.0, -1.0])


@dataclass(frozen=True, kw_only=True)
class G1ExpertConfig:
    """How demonstrations vary."""

    noise: float = 0.004
    """Standard deviation of a slow wandering of each hand about its path, metres."""
    pauses: float = 0.2
    """Chance that an episode contains a short pause."""

    def __post_init__(self) -> None:
        if not 0 <= self.noise <= 0.02 or not 0 <= self.pauses <= 1:
            raise ConfigError(
                f"An expert needs noise in [0, 0.02] and pauses in [0, 1]: {self.noise}, {self.pauses}."
            )


@dataclass(frozen=True, slots=True)
class Goal:
    """Where both hands should be, in the frame of the pelvis."""

    places: np.ndarray
    """`[2, 3]`, metres."""
    pointing: np.ndarray | None = None
    """Unit vectors along the hands `[2, 3]`; any direction if None."""
    steady: bool = False
    """Whether this is fine work, in which hands wander less."""


Script = Iterator[Goal]


class Arms:
    """Inverse kinematics of both hands with waist and arms, on a copy of the simulation's model."""

    def __init__(self, g1: G1) -> None:
        self._g1, self._data = g1, mujoco.MjData(g1.model)
        self._jacobian, self._weight = np.zeros((6, g1.model.nv)), np.zeros(g1.model.nv)
        # The waist helps where the arms alone would have to stretch.
        self._pull = np.array([0.15] * 3 + [0.03] * 14)
        self._rest = np.array([(HOME | _ELBOWS_OUT)[name] for name in JOINTS])

    def solve(self, posture: np.ndarray, goal: Goal, iterations: int = 4) -> np.ndarray:
        """Joint positions `[17]` near a posture that bring the hands to a goal, spare joints near rest."""
        g1 = self._g1
        q = posture
        for _ in range(iterations):
            error, jacobian = self._error(q, goal)
            spare = self._pull * (self._rest - q)
            gram = jacobian @ jacobian.T + _DAMPING**2 * np.eye(len(error))
            step = spare + jacobian.T @ np.linalg.solve(gram, error - jacobian @ spare)
            step *= min(1.0, 0.2 / max(float(np.abs(step).max()), 1e-12))
            q = np.clip(q + step, g1.lower + _MARGIN, g1.upper - _MARGIN)
        return q

    def holding(self, posture: np.ndarray) -> np.ndarray:
        """The command `[17]` under which the servos stay at a posture, with nothing in the hands."""
        model, data = self._g1.model, self._data
        data.qpos[self._g1.qpos] = posture
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_comVel(model, data)
        mujoco.mj_rne(model, data, 0, self._weight)
        return posture + self._weight[self._g1.dof] / self._g1.kp

    def _error(self, q: np.ndarray, goal: Goal) -> tuple[np.ndarray, np.ndarray]:
        model, data = self._g1.model, self._data
        data.qpos[self._g1.qpos] = q
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        errors, rows = [], []
        for hand, site in enumerate(self._g1.hands):
            mujoco.mj_jacSite(model, data, self._jacobian[:3], self._jacobian[3:], site)
            jacobian = self._jacobian[:, self._g1.dof]
            errors.append(goal.places[hand] + self._g1.origin - data.site_xpos[site])
            rows.append(jacobian[:3])
            if goal.pointing is not None:
                along = data.site_xmat[site].reshape(3, 3)[:, 0]
                # Metres and radians: a turn of 1 counts like an error of 0.2 m.
                errors.append(0.2 * np.cross(along, goal.pointing[hand]))
                across = np.eye(3) - np.outer(along, along)
                rows.append(0.2 * across @ jacobian[3:])
        return np.concatenate(errors), np.concatenate(rows)


class G1Expert:
    """One episode of one of the tasks."""

    def __init__(self, env: G1Env, config: G1ExpertConfig, seed: int) -> None:
        self._rng = seeding.rng(seed, "expert")
        self._noise, self._wander = config.noise, np.zeros((2, 3))
        self._arms, self._posture = Arms(env.g1), env.posture
        self._script = _reach(env, self._rng) if env.config.task == "reach" else _box(env, self._rng)
        self._goal = next(self._script)
        pausing = self._rng.random() < config.pauses
        begin = int(self._rng.integers(3, 40)) if pausing else -1
        self._pause = range(begin, begin + int(self._rng.integers(3, 9)))
        self._step = 0

    def act(self, observation: Observation) -> np.ndarray:
        """The next action `[17]`, float32."""
        del observation  # the script reads the simulation
        if self._step not in self._pause:
            self._goal = next(self._script)
        self._step += 1
        fresh = self._rng.standard_normal((2, 3))
        self._wander = _MEMORY * self._wander + np.sqrt(1 - _MEMORY**2) * fresh
        goal = self._goal
        noise = self._noise * (0.4 if goal.steady else 1.0) * self._wander
        aim = Goal(goal.places + noise, goal.pointing)
        move = self._arms.solve(self._posture, aim) - self._posture
        self._posture = self._posture + move * min(1.0, _FASTEST * _SECONDS / max(np.abs(move).max(), 1e-12))
        return self._arms.holding(self._posture).astype(np.float32)


def _reach(env: G1Env, rng: np.random.Generator) -> Script:
    """Each hand goes to its target in its own time, on a path that bends a little."""
    start, targets = env.hands, env.targets
    speed = rng.uniform(0.25, 0.45)
    bend = rng.uniform(-0.04, 0.04, (2, 3))
    delay = rng.uniform(0.0, 0.4) * (rng.permutation(2) == 0)
    lengths = np.linalg.norm(targets - start, axis=1)
    seconds = 1.5 * np.maximum(lengths, 0.1) / speed
    for step in itertools.count():
        share = np.clip((step * _SECONDS - delay) / seconds, 0.0, 1.0)[:, None]
        yield Goal(start + _ease(share) * (targets - start) + np.sin(np.pi * _ease(share)) * bend)


@dataclass(frozen=True, slots=True)
class _Hold:
    """How one episode's demonstrator takes the box."""

    depth: float
    """Of the hands along the box from its middle, metres."""
    height: float
    """Over the middle, metres."""
    tilt: float
    """How far the hands point down, rad."""

    def beside(self, box: np.ndarray, yaw: float, gap: float, up: float = 0.0) -> Goal:
        """Hands at a gap from both sides of a box at a place `[3]`; a negative gap squeezes."""
        along, across = np.array([np.cos(yaw), np.sin(yaw), 0.0]), np.array([-np.sin(yaw), np.cos(yaw), 0.0])
        middle = box + self.depth * along + np.array([0.0, 0.0, self.height + up])
        places = middle + _SIDES[:, None] * (BOX[1] + HAND_RADIUS + gap) * across
        return Goal(places, self.pointing(yaw))

    def pointing(self, yaw: float) -> np.ndarray:
        """Unit vectors along the hands `[2, 3]`."""
        flat, down = np.cos(self.tilt), -np.sin(self.tilt)
        yaws = yaw - _TOE_IN * _SIDES
        return np.stack([flat * np.cos(yaws), flat * np.sin(yaws), np.full(2, down)], axis=1)


def _box(env: G1Env, rng: np.random.Generator) -> Script:
    """Over the table, beside the box, squeeze, lift; again from the side if it slips."""
    speed, squeeze = rng.uniform(0.25, 0.40), rng.uniform(0.05, 0.07)
    aside, top = rng.uniform(0.05, 0.08), rng.uniform(0.19, 0.23)
    hold = _Hold(rng.uniform(-0.03, 0.0), rng.uniform(0.0, 0.02), rng.uniform(0.1, 0.3))
    low = np.stack([np.full(2, 0.12), 0.31 * _SIDES, np.full(2, -0.02)], axis=1)
    back = Goal(low, env.pointing)  # from under the edge of the table, before going over it
    yield from _move(Goal(env.hands, env.pointing), back, speed)
    last = Goal(low + np.array([0.03, 0.0, 0.14]), hold.pointing(0.0))
    yield from _move(back, last, speed)
    while True:
        box, turn = env.box
        yaw = float(np.arctan2(turn[1, 0], turn[0, 0]))
        near, touch = hold.beside(box, yaw, aside), hold.beside(box, yaw, -squeeze)
        high = hold.beside(box, yaw, -squeeze, top)
        yield from _move(last, near, speed)
        yield from _move(near, touch, 0.6 * speed, steady=True)
        yield from _move(touch, high, 0.6 * speed, steady=True)
        while all(env.touching) and env.box[0][2] > TABLE_Z + BOX[2] + 0.03:
            yield high
        last = hold.beside(box, yaw, aside, top)
        yield from _move(high, last, speed)


def _move(start: Goal, end: Goal, speed: float, *, steady: bool = False) -> Script:
    """From one goal to another in straight lines, speeding up and slowing down."""
    assert start.pointing is not None
    assert end.pointing is not None
    seconds = 1.5 * float(np.linalg.norm(end.places - start.places, axis=1).max()) / speed
    for step in range(1, max(1, round(seconds / _SECONDS)) + 1):
        share = _ease(np.array(min(1.0, step * _SECONDS / seconds)))
        along = start.pointing + share * (end.pointing - start.pointing)
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        yield Goal(start.places + share * (end.places - start.places), along, steady)


def _ease(share: np.ndarray) -> np.ndarray:
    return np.asarray(share**2 * (3 - 2 * share))
