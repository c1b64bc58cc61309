"""Stores and a trained world model that several tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from robopolicy.world.starts import Starts
from robopolicy.world.train import WorldTraining
from robopolicy.world.world import World, load_world
from tests.world.toy_world import random_actor, recorded, training


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of the noisy expert, and of random actions."""
    home = tmp_path_factory.mktemp("recorded")
    recorded(home / "expert.zarr")
    recorded(home / "random.zarr", random_actor(), episodes=20)
    return [home / "expert.zarr", home / "random.zarr"]


@pytest.fixture(scope="session")
def trained(stores: list[Path], tmp_path_factory: pytest.TempPathFactory) -> WorldTraining:
    made = training(stores, tmp_path_factory.mktemp("world") / "run")
    made.run()
    return made


@pytest.fixture
def world(trained: WorldTraining) -> World:
    return load_world(trained.directory)


@pytest.fixture
def starts(trained: WorldTraining) -> Starts:
    return Starts.load(trained.directory)
