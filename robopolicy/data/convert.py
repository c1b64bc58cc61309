"""Between file formats, told apart by their suffixes: what ``scripts/convert.py`` runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robopolicy.data.exporters import export_hdf5
from robopolicy.data.importers import import_hdf5, import_zarr
from robopolicy.data.store import EpisodeStore
from robopolicy.env import make_env
from robopolicy.errors import ConfigError, DataError, unknown
from robopolicy.spec import Spec
from robopolicy.task import Task

__all__ = ["FORMATS", "ConvertConfig", "convert", "file_format"]

FORMATS = {".hdf5": "hdf5", ".h5": "hdf5", ".zarr": "zarr"}


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """The root of ``configs/convert.yaml``."""

    source: str
    task: Mapping[str, Any] | None = None
    """What the data is of: kept in an imported store, and its action's meaning and bounds with it."""
    out: str | None = None
    overwrite: bool = False
    control_hz: float | None = None
    observations: tuple[str, ...] = ()
    filter: str | None = None
    instruction: str = ""
    replay: bool = False
    episodes: int = 20
    """Replayed, the first ones."""
    lanes: int = 10
    workers: int = 2

    def __post_init__(self) -> None:
        formats = file_format(self.source), file_format(self.target)
        if formats == ("hdf5", "hdf5"):
            raise ConfigError(f"Both {self.source} and {self.target} are HDF5 files; give out=... .zarr.")
        if Path(self.source).resolve() == Path(self.target).resolve():
            raise ConfigError(f"{self.source} would be written over itself; give out=...")
        if formats[0] == "zarr" and (self.observations or self.filter or self.instruction):
            raise ConfigError("observations, filter and instruction are for HDF5 sources.")

    @property
    def target(self) -> str:
        """Where the result goes."""
        suffix = ".zarr" if file_format(self.source) == "hdf5" else ".hdf5"
        return self.out or str(Path(self.source.rstrip("/")).with_suffix(suffix))


def file_format(path: str) -> str:
    """ "hdf5" or "zarr", by suffix.

    Raises:
        ConfigError: another suffix; lists the valid ones.
    """
    suffix = Path(path.rstrip("/")).suffix.lower()
    if suffix not in FORMATS:
        raise ConfigError(f"{path}: " + unknown("suffix", suffix, FORMATS))
    return FORMATS[suffix]


def convert(config: ConvertConfig) -> EpisodeStore:
    """Import or export, verified; returns the zarr of the two.

    Raises:
        DataError: the source cannot be read, the target exists, or the result differs from the source.
    """
    source, target = config.source, config.target
    if Path(target).exists() and not config.overwrite:
        raise DataError(f"{target} exists already. Give overwrite=true to replace it, or another out=...")
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    if file_format(source) == "hdf5":
        task = Task.from_dict(config.task) if config.task else None
        return import_hdf5(
            source,
            target,
            obs_keys=config.observations or None,
            filter_key=config.filter,
            control_hz=config.control_hz,
            like=_spec(task) if task else None,
            task=task.to_dict() if task else None,
            instruction=config.instruction or (task.instruction if task else ""),
            overwrite=config.overwrite,
        )
    if file_format(target) == "zarr":
        return import_zarr(source, target, control_hz=config.control_hz, overwrite=config.overwrite)
    store = EpisodeStore.open(source, control_hz=config.control_hz)
    export_hdf5(store, target, overwrite=config.overwrite)
    return store


def _spec(task: Task) -> Spec:
    env = make_env(task)
    env.close()
    return env.robot_spec
