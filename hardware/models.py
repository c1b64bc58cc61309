"""Models of robots from wherever there is one: the first provider that has it.

    python -m hardware.models g1        # which provider has which file

| provider | where it looks |
|---|---|
| folder | ``$ROBOPOLICY_ASSETS/<name>.xml`` or ``<name>/<name>.xml`` |
| menagerie | the package mujoco-menagerie: its cache, or ``$MENAGERIE_ROOT``. Nothing is downloaded here |
| wheel | other installed packages that bring the robot's meshes |
| built-in | ours, without meshes |

A `RobotSpec.model` without ".xml" is found this way: ``model: g1``. Larger models are for looking at and for
comparing; names of joints are the vendors', sites of end effectors may be missing.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from robopolicy.errors import ConfigError, unknown

__all__ = ["FOLDER", "Found", "find_model", "main", "model_path", "providers"]

FOLDER = "ROBOPOLICY_ASSETS"
_MENAGERIE = {"g1": "unitree_g1", "panda": "franka_emika_panda", "ur5e": "universal_robots_ur5e"}
_WHEELS = {
    "g1": (("mjlab", "asset_zoo/robots/unitree_g1/xmls/g1.xml"),),
    "panda": (("robosuite", "models/assets/robots/panda/robot.xml"),),
    "ur5e": (("robosuite", "models/assets/robots/ur5e/robot.xml"),),
}


@dataclass(frozen=True)
class Found:
    """A model and who has it."""

    provider: str
    path: Path


def providers(name: str) -> Iterator[Found]:
    """Every model of a robot that is there, the preferred one first."""
    if folder := os.environ.get(FOLDER):
        for path in (Path(folder) / f"{name}.xml", Path(folder) / name / f"{name}.xml"):
            if path.is_file():
                yield Found("folder", path)
    if (downloaded := _menagerie(name)) is not None:
        yield Found("menagerie", downloaded)
    for package, inside in _WHEELS.get(name, ()):
        home = _home(package)
        if home is not None and (home / inside).is_file():
            yield Found(package, home / inside)
    root = Path(__file__).resolve().parent.parent
    for package in ("hardware", "envs"):
        path = root / package / "assets" / f"{name}.xml"
        if path.is_file():
            yield Found("built-in", path)


def find_model(name: str) -> Found:
    """The first of `providers`.

    Raises:
        ConfigError: nobody has it; says where was looked.
    """
    found = next(providers(name), None)
    if found is None:
        folder = os.environ.get(FOLDER)
        looked = f"${FOLDER}={folder}" if folder else f"${FOLDER}, which is not set"
        raise ConfigError(
            f"No provider has a model {name!r}: neither {looked}, mujoco-menagerie's cache, nor an installed "
            f"package. " + unknown("model", name, _WHEELS)
        )
    return found


def model_path(model: str) -> Path:
    """The file of a `RobotSpec.model`: its name in ``hardware/assets`` or ``envs/assets``, the path, or what
    the first provider has.

    Raises:
        ConfigError: neither exists.
    """
    if not model.endswith(".xml"):
        return find_model(model).path
    root = Path(__file__).resolve().parent.parent
    homes = [root / package / "assets" for package in ("hardware", "envs")]
    for path in (*(home / model for home in homes), Path(model)):
        if path.is_file():
            return path
    known = (path.name for home in homes for path in home.glob("*.xml"))
    raise ConfigError(f"{model!r} is no file. " + unknown("model", model, known))


def _menagerie(name: str) -> Path | None:
    """In a checkout, or in the package's cache."""
    if name not in _MENAGERIE or importlib.util.find_spec("mujoco_menagerie") is None:
        return None
    import mujoco_menagerie
    from mujoco_menagerie._cache import Cache

    robot, cache = mujoco_menagerie.get(_MENAGERIE[name]), Cache()
    folder = cache.root / robot.name if cache.root else cache.model_path(robot)
    path = Path(folder) / robot.entry(robot.default_model).file
    return path if path.is_file() else None


def _home(package: str) -> Path | None:
    """Where a package is installed, without importing it."""
    found = importlib.util.find_spec(package)
    places = [] if found is None else list(found.submodule_search_locations or ())
    return Path(places[0]) if places else None


def main() -> None:
    """Print who has the model that the command line names."""
    for name in sys.argv[1:] or sorted(_WHEELS):
        for found in providers(name):
            print(f"{name:8} {found.provider:10} {found.path}")


if __name__ == "__main__":
    main()
