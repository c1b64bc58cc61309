"""A store as a robomimic HDF5 file, verified afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from robopolicy.data.importers import EXTRA, Ledger
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError

__all__ = ["GYM", "ROBOSUITE", "export_hdf5"]

ROBOSUITE, GYM = 1, 2  # robomimic's EnvType


def export_hdf5(store: EpisodeStore, dst: str | Path, *, overwrite: bool = False) -> Path:
    """Write ``data/demo_k/{obs/<key>, actions, rewards, dones[, states]}``, the layout robomimic trains on.

    Rewards are 0 and the last step is done where the store has no such columns. ``next_obs`` is left out:
    set ``train.hdf5_load_next_obs`` to false. Seed, success and instruction become attributes of a demo.

    Raises:
        DataError: the file exists, cannot be written, or differs from the store.
    """
    target = Path(dst)
    if target.exists() and not overwrite:
        raise DataError(f"{target} exists already. Pass overwrite=True to replace it.")
    if not len(store):
        raise DataError(f"{store.where} has no episodes to export.")
    partial = target.with_name(target.name + ".partial")
    written = Ledger()
    try:
        with h5py.File(partial, "w") as file:
            data = file.create_group("data")
            data.attrs["total"] = int(store.episode_ends[-1])
            data.attrs["env_args"] = json.dumps(_env_args(store))
            for index in range(len(store)):
                written.add(_write_demo(store, index, data.create_group(f"demo_{index}")))
        written.compare(_file_ledger(partial), f"Export to {target}")
        partial.replace(target)
    except OSError as error:
        raise DataError(f"Writing {target} failed: {error}.") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _write_demo(store: EpisodeStore, index: int, demo: h5py.Group) -> dict[str, np.ndarray]:
    episode = store.episode(index)
    length = len(episode["action"])
    demo.attrs["num_samples"] = length
    if store.seeds[index] >= 0:
        demo.attrs["seed"] = int(store.seeds[index])
    if store.successes[index] >= 0:
        demo.attrs["success"] = int(store.successes[index])
    if store.instructions[index]:
        demo.attrs["instruction"] = store.instructions[index]
    arrays = {f"obs/{key}": episode[key] for key in store.spec.observations if key in episode}
    arrays["actions"] = episode["action"]
    arrays["rewards"] = np.zeros(length)
    arrays["dones"] = np.arange(length) == length - 1
    arrays |= {key: episode[key] for key in store.extra if key in EXTRA}
    arrays["dones"] = arrays["dones"].astype(np.int64)
    for name, array in arrays.items():
        if array.ndim == 4:
            demo.create_dataset(name, data=array, chunks=(1, *array.shape[1:]), compression="lzf")
        else:
            demo.create_dataset(name, data=array)
    return arrays


def _file_ledger(path: Path) -> Ledger:
    ledger = Ledger()
    with h5py.File(path, "r") as file:
        for index in range(len(file["data"])):
            demo = file["data"][f"demo_{index}"]
            arrays = {f"obs/{key}": np.asarray(value) for key, value in demo["obs"].items()}
            arrays |= {key: np.asarray(value) for key, value in demo.items() if key != "obs"}
            ledger.add(arrays)
    return ledger


def _env_args(store: EpisodeStore) -> Mapping[str, Any]:
    """What robomimic builds its environment from: as imported, or from the task."""
    if store.origin.get("env_args", {}).get("env_name"):
        return store.origin["env_args"]
    environment = dict((store.task or {}).get("env", {}))
    kind = environment.pop("name", "")
    name = environment.pop("task", kind) or "unknown"
    settings = {**environment, "control_freq": store.spec.control_hz}
    return {"env_name": name, "type": ROBOSUITE if kind == "robosuite" else GYM, "env_kwargs": settings}
