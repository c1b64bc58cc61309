"""Attempts to grasp are counted in made-up episodes, and in those of scripted experts."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from robopolicy.env import Grasp, make_env
from robopolicy.evaluation.retries import (
    LASTING,
    LEFT,
    NEAR,
    Attempt,
    Outcome,
    RetryRow,
    attempts,
    closings,
    summarise,
)
from robopolicy.evaluation.statistics import share_interval, wilson
from robopolicy.task import Task

Scene = tuple[int, float, float, float]
"""Steps; opening, distance from the object and its rise meanwhile, in metres."""
REACHING: Scene = (12, 0.08, 0.05, 0.0)
EMPTY: Scene = (10, 0.002, 0.05, 0.0)
GRIPPED: Scene = (6, 0.03, 0.05, 0.0)
CARRIED: Scene = (20, 0.03, 0.05, 0.1)


def told(*scenes: Scene) -> Grasp:
    steps, *columns = zip(*scenes, strict=True)
    opening, distance, rise = (np.repeat(column, steps) for column in columns)
    return Grasp(opening=opening, distance=distance, height=0.83 + rise)


def outcomes(*scenes: Scene, success: bool = False) -> list[Outcome]:
    return [attempt.outcome for attempt in attempts(told(*scenes), success)]


def test_a_grasp_fails_is_tried_again_and_succeeds() -> None:
    grasp = told(REACHING, EMPTY, REACHING, GRIPPED, CARRIED)
    assert attempts(grasp, True) == (
        Attempt(start=11, outcome="missed", failed=12),
        Attempt(start=33, outcome="succeeded"),
    )


def test_what_is_carried_and_lost_is_dropped() -> None:
    slipped = told(REACHING, GRIPPED, CARRIED, EMPTY)
    assert attempts(slipped, False) == (Attempt(start=11, outcome="dropped", failed=37),)
    assert outcomes(REACHING, GRIPPED, CARRIED, REACHING) == ["dropped"]  # let go in the air
    assert outcomes(REACHING, GRIPPED, CARRIED, REACHING, EMPTY) == ["dropped", "missed"]
    assert outcomes(REACHING, GRIPPED, CARRIED, (30, 0.08, 0.2, 0.1)) == ["dropped"]  # put down elsewhere


def test_what_is_still_held_has_not_failed() -> None:
    assert attempts(told(REACHING, GRIPPED, CARRIED), False) == (Attempt(start=11, outcome="held"),)
    assert outcomes(REACHING, EMPTY, REACHING, CARRIED) == ["missed", "held"]


@pytest.mark.parametrize(
    "scenes",
    [
        [REACHING],
        [(3, 0.042, 0.2, 0.0), REACHING],  # half open, as robosuite's episodes begin
        [(3, 0.042, 0.05, 0.0), EMPTY],  # and closed without having been open
        [REACHING, (4, 0.065, 0.05, 0.0), REACHING],  # fingers that only twitch
        [(12, 0.08, NEAR + 0.01, 0.0), (10, 0.002, NEAR + 0.01, 0.0)],  # far from the object
    ],
)
def test_what_is_no_attempt(scenes: list[Scene]) -> None:
    assert outcomes(*scenes) == []


def test_closed_fingers_that_twitch_begin_no_new_attempt() -> None:
    assert outcomes(REACHING, EMPTY, (4, 0.04, 0.05, 0.0), EMPTY) == ["missed"]
    assert outcomes(REACHING, (10, 0.059, 0.05, 0.0), (10, 0.061, 0.05, 0.0), GRIPPED) == ["missed"]


@pytest.mark.parametrize(
    "scene",
    [
        (20, 0.03, 0.05, 0.02),  # one edge is up
        (LASTING - 1, 0.03, 0.05, 0.1),  # a touch threw it up
        (20, 0.002, 0.05, 0.1),  # it leans on something, the fingers are empty
        (20, 0.03, NEAR + 0.01, 0.1),
    ],
)
def test_what_is_not_held(scene: Scene) -> None:
    assert outcomes(REACHING, GRIPPED, scene, EMPTY) == ["missed"]


def test_fingers_have_closed_when_they_hardly_go_on_closing() -> None:
    opening = np.concatenate([[0.04, 0.07, 0.08], np.linspace(0.08, 0.031, 8), np.linspace(0.031, 0.03, 30)])
    assert closings(opening) == [(3, 10)]
    assert closings(np.concatenate([opening, [0.05, 0.07, 0.08, 0.03]])) == [(3, 10), (43, 44)]


def row(*found: Outcome, success: bool = False, left: int = LEFT, seed: int = 0) -> RetryRow:
    """Attempts ten steps apart; the episode ends `left` steps after the last."""
    rows = [
        Attempt(start=10 * i, outcome=outcome, failed=10 * i if outcome in ("missed", "dropped") else None)
        for i, outcome in enumerate(found)
    ]
    return RetryRow(seed=seed, success=success, steps=10 * (len(found) - 1) + left, attempts=tuple(rows))


def test_shares_are_of_those_that_had_the_occasion() -> None:
    rows = [
        row("succeeded", success=True),
        row("missed", "succeeded", success=True),
        row("dropped", "missed", "held"),
        row("dropped"),
        row("missed", left=LEFT - 1),  # no time left
        row("missed", "missed", left=5),  # it took the time
        row("held"),
        row(),
    ]
    found = summarise([rows])
    counts = {key: (v["count"], v["of"]) for key, v in found.items() if isinstance(v, dict)}
    assert counts == {
        "success": (2, 8), "first attempt failed": (5, 8), "tried again": (3, 4), "then succeeded": (1, 3),
    }  # fmt: skip
    assert found["attempts"] == 11 / 8
    assert found["training seeds"] == 1
    assert found["tried again"] == {"count": 3, "of": 4, **asdict(wilson(3, 4))}


def test_where_nothing_failed_there_is_nothing_to_try_again() -> None:
    found = summarise([[row("succeeded", success=True)] * 5])
    assert found["tried again"] == found["then succeeded"] == {"count": 0, "of": 0}
    assert found["first attempt failed"]["value"] == 0.0


def test_several_training_seeds_are_less_sure_than_as_many_episodes_of_one() -> None:
    again, not_again = row("missed", "missed"), row("missed")
    found = summarise([[again] * 20, [not_again] * 20])["tried again"]
    pooled = wilson(20, 40)
    assert (found["count"], found["of"], found["value"]) == (20, 40, 0.5)
    assert found["low"] < pooled.low < pooled.high < found["high"]
    assert share_interval([[True] * 20, [False] * 20], np.ones((2, 20))).low == found["low"]


@pytest.mark.sim
@pytest.mark.parametrize("name", ["Lift", "PickPlaceCan", "NutAssemblySquare"])
def test_the_grasp_of_a_steady_expert_is_one_attempt(name: str) -> None:
    env = make_env(Task(name="t", env={"name": "robosuite", "task": name}, horizon=400))
    observation, _ = env.reset(seed=1)
    expert, rows, success = env.expert(1, {"noise": 0.0}), [], False
    while not success and len(rows) < 400:
        rows.append(observation)
        observation, *_, info = env.step(expert.act(observation))
        success = bool(info["success"])
    grasp = env.grasp({key: np.stack([row[key] for row in rows]) for key in observation})
    env.close()
    (attempt,) = attempts(grasp, success)
    assert attempt.outcome == "succeeded"
    if name != "Lift":  # which has succeeded as soon as the cube is up
        carrying = slice(int(0.75 * len(rows)))
        early = Grasp(**{key: value[carrying] for key, value in vars(grasp).items()})
        assert attempts(early, False) == (Attempt(start=attempt.start, outcome="held"),)
