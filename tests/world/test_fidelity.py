from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from robopolicy.errors import RobopolicyError
from robopolicy.world import fidelity as module
from robopolicy.world.fidelity import Branches, branches, fidelity, held_of, main, r_squared, touching
from robopolicy.world.film import film
from robopolicy.world.train import WorldTraining
from robopolicy.world.world import World


def test_r_squared_is_of_differences_between_actions() -> None:
    real = np.random.default_rng(0).normal(size=(5, 16, 15, 3))
    shift = 10 * np.ones((5, 1, 1, 3))  # an error that all branches share is no error of the differences
    assert r_squared(Branches(real, real + shift), 5) == pytest.approx(1)
    assert r_squared(Branches(real, np.zeros_like(real)), 1) == pytest.approx(0)
    centred = real - real.mean(1, keepdims=True)
    assert r_squared(Branches(real, 0.5 * centred), 15) == pytest.approx(0.75)


def test_a_model_that_learned_the_law_explains_the_differences(trained: WorldTraining) -> None:
    found = fidelity(trained.directory, states=4)
    assert found["r_squared"]["1"] > 0.95
    assert found["r_squared"]["15"] > 0.9
    assert set(found["r_squared_by_key"]) == {"position"}  # the goal is copied
    assert found["r_squared_by_key"]["position"] == pytest.approx(found["r_squared"])
    assert found["r_squared_by_offset"]["0.5"] == pytest.approx(found["r_squared"])
    assert found["r_squared_by_offset"]["0.1"]["1"] > 0.9
    states = found["by_state"]
    assert len(states["real"]) == 4
    assert 1 - sum(states["missed"]) / sum(states["real"]) == pytest.approx(found["r_squared"]["1"], abs=1e-3)
    assert found["error"]["1"] < 0.2
    assert found["false_success"]["count"] == 0
    assert found["true_success"]["of"] + found["false_success"]["of"] == len(trained.held.episodes)


def test_a_model_deaf_to_actions_explains_nothing(
    trained: WorldTraining, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, tasks = held_of(trained.directory, world)
    usual = world.encode_actions
    monkeypatch.setattr(world, "encode_actions", lambda a, h: (0 * usual(a, h)[0], usual(a, h)[1]))
    found = branches(world, held, tasks, states=3, seed=0)
    assert abs(r_squared(found, 1)) < 1e-6


def test_episodes_that_do_not_repeat_themselves_are_named(trained: WorldTraining, world: World) -> None:
    held, tasks = held_of(trained.directory, world)
    held.episodes[:] = [{**e, "action": e["action"] + 0.5} for e in held.episodes]
    with pytest.raises(RobopolicyError, match="does not repeat itself: position differs at step"):
        branches(world, held, tasks, states=6, seed=0)


def test_the_command_writes_a_file(
    trained: WorldTraining, stores: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STATES", 2)
    main([str(trained.directory), str(tmp_path / "deep" / "toy.json"), str(stores[1])])
    written = json.loads((tmp_path / "deep" / "toy.json").read_text())
    assert written["visited"] == [str(stores[1])]
    assert {"r_squared", "error", "machine", "commit", "encoding"} <= set(written)
    with pytest.raises(SystemExit, match="usage"):
        main([])


def test_real_and_imagined_are_filmed_side_by_side(trained: WorldTraining, tmp_path: Path) -> None:
    import imageio

    film(trained.directory, tmp_path / "toy.mp4", episodes=2)
    reader = imageio.get_reader(tmp_path / "toy.mp4", format="FFMPEG")
    frame = np.asarray(reader.get_data(0))
    assert frame.shape == (278, 1028, 3)
    assert torch.from_numpy(frame.copy()).float().std() > 5


def test_a_touch_is_where_an_action_decides_on_more_than_the_robot(world: World) -> None:
    keys = {"position": torch.randn(3, 16, 15, 2), "goal": torch.zeros(3, 16, 15, 2)}
    keys["goal"][1, 4, 0] = 1.0  # one action of the second state moves it at once
    keys["goal"][2, 4, 1] = 1.0  # and one of the third state a step later
    real = world.join(keys).numpy()
    assert touching(world, Branches(real, real)).tolist() == [False, True, False]
