"""Stores and a trained world model that several tests look at, made once for all processes of a test run."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from robopolicy.world.starts import Starts
from robopolicy.world.train import WorldTraining, set_rule
from robopolicy.world.world import World, load_world
from tests.world.toy_world import random_actor, recorded, training


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> WorldTraining:
    base = tmp_path_factory.getbasetemp()
    home = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "world"
    home.mkdir(exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "random.zarr").exists():
            recorded(home / "expert.zarr")
            recorded(home / "random.zarr", random_actor(), episodes=20)
        made = training([home / "expert.zarr", home / "random.zarr"], home / "run")
        if (made.directory / "held_out.json").exists():
            set_rule(made.trainer.train(), made.held)
        else:
            made.run()
    return made


@pytest.fixture(scope="session")
def stores(trained: WorldTraining) -> list[Path]:
    """Of the noisy expert, and of random actions."""
    return [trained.directory.parent / name for name in ("expert.zarr", "random.zarr")]


@pytest.fixture
def world(trained: WorldTraining) -> World:
    return load_world(trained.directory)


@pytest.fixture
def starts(trained: WorldTraining) -> Starts:
    return Starts.load(trained.directory)
