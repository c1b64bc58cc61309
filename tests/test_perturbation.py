"""Every perturbation does what it says, is the episode's alone, and does nothing at level 0."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import tests.toy_env  # noqa: F401 - registers the environment
from robopolicy.env import Grasp, Observation, RobotEnv, make_env
from robopolicy.errors import ConfigError, MissingCapability
from robopolicy.perturbation import NAMES, PerturbedEnv
from robopolicy.rollout import ExpertActor, run_episodes
from robopolicy.task import Task
from robopolicy.vector import LaneVectorEnv
from tests.toy_env import ToyEnv, toy_task

PIXELS = Task(
    name="avoidance", env={"name": "avoidance"}, horizon=40, cameras=("top",), image_size=32, success_hold=0
)
IMAGES = ("occlusion", "distractors", "recolour")


def make(task: Task, *perturb: dict[str, Any]) -> RobotEnv:
    return make_env(Task.from_dict({**task.to_dict(), "perturb": list(perturb)}))


def play(env: RobotEnv, seed: int, steps: int = 12) -> list[Observation]:
    rng = np.random.default_rng(1)
    seen = [env.reset(seed=seed)[0]]
    seen += [env.step(rng.uniform(-1, 1, 2).astype(np.float32))[0] for _ in range(steps)]
    return seen


def equal(one: list[Observation], two: list[Observation]) -> bool:
    return all(np.array_equal(a[key], b[key]) for a, b in zip(one, two, strict=True) for key in a)


@pytest.mark.sim
@pytest.mark.parametrize("name", NAMES)
def test_level_0_is_the_plain_environment_and_others_are_not(name: str) -> None:
    plain = make(PIXELS)
    for seed in (0, 7):
        expected = play(plain, seed)
        assert equal(expected, play(make(PIXELS, {"name": name, "level": 0.0}), seed))
    level = 3.0 if name in ("delay", "action_delay", "distractors") else 0.5
    perturbed = make(PIXELS, {"name": name, "level": level})
    found = play(perturbed, 7)
    assert not equal(expected, found)
    play(perturbed, 8)
    assert equal(found, play(perturbed, 7))  # the seed decides the episode, whatever came before
    if name in IMAGES:
        states = [[{**row, "top_image": row["top_image"] * 0} for row in rows] for rows in (expected, found)]
        assert equal(*states)
    for observation in found:
        assert {k: (v.shape, v.dtype) for k, v in observation.items()} == {
            k: (o.shape, np.dtype(o.dtype)) for k, o in perturbed.robot_spec.observations.items()
        }


def test_a_group_suffers_alone() -> None:
    expected = play(make(toy_task()), 3)
    for name, level in (("dropout", 1.0), ("freeze", 1.0), ("noise", 0.1), ("delay", 2.0)):
        found = play(make(toy_task(), {"name": name, "level": level, "group": "proprioception"}), 3)
        assert all(np.array_equal(a["goal"], b["goal"]) for a, b in zip(expected, found, strict=True))
        positions = [row["position"] for row in expected]
        if name == "dropout":
            wanted = [np.zeros(2)] * 13
        elif name == "freeze":
            wanted = [positions[0]] * 13
        elif name == "delay":
            wanted = [*positions[:1] * 2, *positions[:-2]]
        else:
            gaps = np.concatenate([b["position"] - p for b, p in zip(found, positions, strict=True)])
            assert 0.05 < gaps.std() < 0.15
            continue
        for row, value in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(row["position"], value)


def test_dropout_and_freezing_happen_as_often_as_asked() -> None:
    lost = play(make(toy_task(), {"name": "dropout", "level": 0.3}), 0, steps=600)
    share = np.mean([not row["goal"].any() for row in lost])
    assert 0.24 < share < 0.36
    stuck = play(make(toy_task(), {"name": "freeze", "level": 0.3}), 0, steps=600)
    share = np.mean([np.array_equal(a["position"], b["position"]) for a, b in itertools.pairwise(stuck)])
    assert 0.24 < share < 0.36


def test_actions_arrive_late() -> None:
    rows = np.random.default_rng(0).uniform(-1, 1, (8, 2)).astype(np.float32)
    late, plain = make(toy_task(), {"name": "action_delay", "level": 3.0}), make(toy_task())
    start = late.reset(seed=0)[0]["position"]
    plain.reset(seed=0)
    positions = [late.step(row)[0]["position"] for row in rows]
    expected = [plain.step(row)[0]["position"] for row in rows]
    for early in positions[:3]:
        np.testing.assert_array_equal(early, start)
    for one, two in zip(positions[3:], expected, strict=False):
        np.testing.assert_array_equal(one, two)


def test_pushes_move_what_stands_still() -> None:
    env = make(toy_task(), {"name": "push", "level": 0.5})
    first = env.reset(seed=0)[0]["position"]
    places = np.array([first, *(env.step(np.zeros(2, np.float32))[0]["position"] for _ in range(200))])
    moved = np.linalg.norm(np.diff(places, axis=0), axis=1)
    pushed = moved > 1e-6
    np.testing.assert_allclose(moved[pushed], 0.1 * 0.5, rtol=1e-3)
    lengths = [len(list(run)) for moving, run in itertools.groupby(pushed) if moving]
    assert all(length % 5 == 0 for length in lengths[:-1])
    assert 0.05 < pushed.mean() < 0.4


@pytest.mark.sim
def test_pictures_are_covered_repainted_and_recoloured() -> None:
    plain = play(make(PIXELS), 2)
    for name, level in (("occlusion", 0.25), ("distractors", 3.0), ("recolour", 1.0)):
        found = play(make(PIXELS, {"name": name, "level": level}), 2)
        changed = [(a["top_image"] != b["top_image"]).any(-1) for a, b in zip(plain, found, strict=True)]
        if name == "occlusion":
            rows, columns = np.nonzero(changed[0])
            assert np.ptp(rows) < 8
            assert np.ptp(columns) < 8
            assert (found[0]["top_image"][rows, columns] == 96).all()
        if name != "recolour":
            assert 0 < np.mean(changed) < 0.2
        grey = found[0]["top_image"][2, 2].astype(int)
        if name == "recolour":
            assert np.abs(grey - plain[0]["top_image"][2, 2].astype(int)).max() < 12  # greys stay grey


def test_it_stands_in_for_the_environment() -> None:
    task = Task.from_dict({**toy_task(noise=0.1).to_dict(), "perturb": [{"name": "noise", "level": 0.02}]})
    tables = []
    for workers in (0, 2):
        envs = LaneVectorEnv(task, 3, workers=workers)
        episodes = sorted(run_episodes(envs, ExpertActor(), range(6), record=True), key=lambda e: e.index)
        tables.append([episode.data["position"] for episode in episodes])
        envs.close()
    for one, two in zip(*tables, strict=True):
        np.testing.assert_array_equal(one, two)
    env = make_env(task)
    assert isinstance(env, PerturbedEnv)
    assert isinstance(env.unwrapped, ToyEnv)
    env.reset(seed=0)
    assert env.render_frame(size=16).shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "nose", "level": 1.0}, r"'noise'.*action_delay, delay, distractors"),
        ({"name": "dropout", "level": 1.5}, "up to 1"),
        ({"name": "delay", "level": 1.5}, "whole number"),
        ({"name": "noise", "level": -1.0}, ">= 0"),
        ({"name": "push", "level": 1.0, "group": "object"}, "no group"),
        ({"name": "noise", "level": 1.0, "group": "objects"}, "Did you mean 'object'"),
        ({"name": "occlusion", "level": 0.2}, "needs images"),
        ({"name": "noise", "levels": 1.0}, "level"),
    ],
)
def test_settings_that_cannot_work(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(toy_task(), values)


def test_an_environment_that_cannot_is_named() -> None:
    with pytest.raises(MissingCapability, match="ToyEnv cannot reset with object_range"):
        make(toy_task(), {"name": "object_range", "level": 1.0})


def test_grasps_are_told_unless_the_readings_they_are_told_from_are_perturbed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = Grasp(opening=np.zeros(1), distance=np.zeros(1), height=np.zeros(1))
    monkeypatch.setattr(ToyEnv, "grasp", lambda self, episode: told)
    assert make(toy_task(), {"name": "push", "level": 0.5}).grasp({}) is told
    with pytest.raises(MissingCapability, match="under noise"):
        make(toy_task(), {"name": "push", "level": 0.5}, {"name": "noise", "level": 0.5}).grasp({})


def test_every_perturbation_has_a_yaml() -> None:
    folder = Path(__file__).parents[1] / "configs" / "perturb"
    assert {path.stem for path in folder.glob("*.yaml")} == set(NAMES)
    for path in folder.glob("*.yaml"):
        assert yaml.safe_load(path.read_text())["name"] == path.stem
