"""What is computed in Meta-World's place is what Meta-World computes."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from envs.metaworld_fast import Orientation
from robopolicy.env import RobotEnv, make_env
from robopolicy.task import Task

pytest.importorskip("metaworld", reason="Meta-World is the extra robopolicy[metaworld]")
pytestmark = pytest.mark.sim

TASKS = ["push-v3", "pick-place-v3", "drawer-open-v3"]
FURTHER = [
    "stick-pull-v3",
    "assembly-v3",
    "plate-slide-v3",
    "coffee-pull-v3",
    "peg-insert-side-v3",
    "soccer-v3",
]
"""Of two objects, and those whose orientation is found in other ways."""


def make(name: str) -> RobotEnv:
    return make_env(Task(name="t", env={"name": "metaworld", "task": name}, horizon=9))


@pytest.mark.parametrize("name", TASKS)
def test_touch_is_what_the_package_finds(name: str) -> None:
    env = make(name)
    inner = env._env  # type: ignore[attr-defined]
    env.reset(seed=0)
    expert = env.expert(0, {"noise": 0.0, "pauses": 0.0})
    found = []
    for step in range(120):
        env.step(expert.act({}))
        for geom in range(inner.model.ngeom) if step % 10 == 9 else ():
            found.append(inner.touching_object(geom))
            assert found[-1] == type(inner).touching_object(inner, geom)
    assert not all(found)
    assert name != "pick-place-v3" or any(found)


@pytest.mark.parametrize("name", [*TASKS, *(pytest.param(name, marks=pytest.mark.slow) for name in FURTHER)])
def test_observations_are_the_package_s_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make(name)
    inner = env._env  # type: ignore[attr-defined]
    env.reset(seed=0)
    expert = env.expert(0, {})
    for _ in range(60):
        env.step(expert.act({}))
        ours = inner._get_curr_obs_combined_no_goal()
        with monkeypatch.context() as scipys:
            for module in (sys.modules[kind.__module__] for kind in type(inner).__mro__):
                if hasattr(module, "Rotation"):
                    scipys.setattr(module, "Rotation", Rotation)
            theirs = type(inner)._get_curr_obs_combined_no_goal(inner)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-14)
        np.testing.assert_array_equal(ours[:7], theirs[:7])


def test_orientations_are_scipy_s_sign_included() -> None:
    rng = np.random.default_rng(0)
    half_turns = np.pi * np.eye(3)[rng.integers(3, size=100)] + 1e-9 * rng.normal(size=(100, 3))
    everywhere = Rotation.random(1000, random_state=0)
    for rotation in (*everywhere, *Rotation.from_rotvec(half_turns), Rotation.identity()):
        matrix = rotation.as_matrix()
        found = Orientation.from_matrix(matrix).as_quat()
        np.testing.assert_allclose(found, Rotation.from_matrix(matrix).as_quat(), rtol=0, atol=1e-15)
