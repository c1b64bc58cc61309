"""Routes of a carried object are told apart, whatever direction it goes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from envs.carrying import ROUTES, route_carried
from robopolicy.env import RobotEnv, make_env
from robopolicy.errors import MissingCapability
from robopolicy.task import Task

CORNERS = {
    "direct": [(0, 0, 0), (0, 0, 0.05), (0.3, 0, 0.1), (0.3, 0, 0.05)],
    "over": [(0, 0, 0), (0, 0, 0.12), (0.3, 0, 0.12), (0.3, 0, 0.05)],
    "left": [(0, 0, 0), (0, 0, 0.05), (0.15, 0.05, 0.1), (0.3, 0, 0.1), (0.3, 0, 0.05)],
    "right": [(0, 0, 0), (0, 0, 0.05), (0.15, -0.05, 0.1), (0.3, 0, 0.1), (0.3, 0, 0.05)],
}


def made(task: str) -> RobotEnv:
    return make_env(Task(name="t", env={"name": "robosuite", "task": task}, horizon=9))


def path(corners: list[tuple[float, float, float]], turn: float) -> np.ndarray:
    """Straight lines between corners, turned about the vertical, from somewhere."""
    ends = np.array(corners, np.float64)
    lines = [a + (b - a) * np.linspace(0, 1, 25)[:, None] for a, b in itertools.pairwise(ends)]
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    return np.concatenate(lines) @ rotation.T + [0.4, -0.2, 0.83]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("turn", [0.0, 1.0, 2.5, -2.0])
def test_routes_are_told_apart_in_any_direction(route: str, turn: float) -> None:
    assert route_carried(path(CORNERS[route], turn)) == route


def test_what_was_not_carried_has_no_route() -> None:
    assert route_carried(np.zeros((10, 3))) is None
    assert route_carried(path([(0, 0, 0), (0, 0, 0.1), (0, 0, 0)], 0.0)) is None


@pytest.mark.sim
@pytest.mark.parametrize(
    ("mode", "seed", "routes"),
    [("direct", 0, {"direct"}), ("over", 1, {"over"}), ("arc", 2, {"left", "right"})],
)
def test_squares_demonstrator_takes_the_route_it_is_told(mode: str, seed: int, routes: set[str]) -> None:
    env = made("NutAssemblySquare")
    assert env.routes == ROUTES
    observation, _ = env.reset(seed=seed)
    expert, seen = env.expert(seed, {"mode": mode}), []
    for _ in range(400):
        seen.append(observation["object-state"])
        observation, _, _, _, info = env.step(expert.act(observation))
        if info["success"]:
            break
    assert env.route({"object-state": np.stack(seen)}) in routes


@pytest.mark.sim
def test_a_task_without_routes_says_so() -> None:
    with pytest.raises(MissingCapability, match="Lift"):
        made("Lift").route({})
