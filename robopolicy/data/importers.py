"""Episodes from robomimic and robosuite HDF5 files and from Diffusion Policy zarrs, verified afterwards.

HDF5 layout: ``data/demo_k/{obs/<key>, actions, rewards, dones, states}`` with the attributes ``num_samples``
of a demo and ``total`` and ``env_args`` of ``data``; ``mask/<name>`` lists demos. Everything is copied one
episode at a time.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import h5py
import numpy as np

from robopolicy.data.rows import blocks
from robopolicy.data.store import EpisodeStore, Location
from robopolicy.errors import DataError, unknown
from robopolicy.spec import Spec

__all__ = ["DEFAULT_CONTROL_HZ", "EXTRA", "Ledger", "import_hdf5", "import_zarr", "store_ledger"]

EXTRA = ("states", "rewards", "dones")
DEFAULT_CONTROL_HZ = 20.0


class Ledger:
    """Counts and ranges of what went in, to be held against what came out."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.ranges: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def add(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Count one episode ``{key: [T, ...]}``."""
        self.lengths.append(len(next(iter(arrays.values()))))
        for key, array in arrays.items():
            low, high = array.min(axis=0), array.max(axis=0)
            if key in self.ranges:
                low, high = np.minimum(low, self.ranges[key][0]), np.maximum(high, self.ranges[key][1])
            self.ranges[key] = (low, high)

    def compare(self, other: Ledger, where: str) -> None:
        """Raise unless both hold equal lengths and ranges.

        Raises:
            DataError: names the episode or the key.
        """
        if len(self.lengths) != len(other.lengths):
            raise DataError(f"{where}: {len(self.lengths)} episodes went in, {len(other.lengths)} came out.")
        for index, (mine, theirs) in enumerate(zip(self.lengths, other.lengths, strict=True)):
            if mine != theirs:
                raise DataError(f"{where}: episode {index} had {mine} steps, has {theirs}.")
        for key, bounds in self.ranges.items():
            if key not in other.ranges:
                raise DataError(f"{where}: {key!r} went in and did not come out.")
            if not all(np.array_equal(a, b) for a, b in zip(bounds, other.ranges[key], strict=True)):
                raise DataError(f"{where}: the range of {key!r} changed.")


def store_ledger(store: EpisodeStore) -> Ledger:
    """Counts and ranges of a store, read from its disk."""
    ledger = Ledger()
    for key in store.keys:
        for block in blocks(store, key, np.arange(len(store))):
            ledger.add({key: block})
    ledger.lengths = store.lengths.tolist()
    return ledger


def import_hdf5(
    src: str | Path,
    dst: Location,
    *,
    obs_keys: Sequence[str] | None = None,
    filter_key: str | None = None,
    control_hz: float | None = None,
    like: Spec | None = None,
    task: Mapping[str, Any] | None = None,
    instruction: str = "",
    overwrite: bool = False,
) -> EpisodeStore:
    """A store from a robomimic or robosuite file, with simulator states, rewards and dones where it has them.

    Args:
        obs_keys: observations to take; all by default. uint8 ``[T, H, W, C]`` are images, the rest float32.
        filter_key: only the demos listed under ``mask/<filter_key>``.
        control_hz: by default ``control_freq`` of the file's ``env_args``.
        like: spec of the environment the file is from, which knows what the action and observations of
            its names mean; unlimited "unspecified" action dimensions by default.
        instruction: for demos that have no attribute ``instruction``.

    Raises:
        DataError: not such a file, no observations in it, or the result differs from it.
    """
    with _open(src) as file:
        demos = _demos(file, src, filter_key)
        first = cast(h5py.Group, file["data"][demos[0]])
        if "obs" not in first:
            raise DataError(
                f"{src} holds simulator states and actions but no observations. Extract them by replay: "
                f"python -m robomimic.scripts.dataset_states_to_obs --dataset {src} "
                "--output_name with_obs.hdf5 --done_mode 2 (after robomimic.scripts.conversion."
                "convert_robosuite if robosuite recorded it)."
            )
        for key in obs_keys or ():
            if key not in first["obs"]:
                raise DataError(f"{src}: " + unknown("observation", key, first["obs"]))
        keys = sorted(obs_keys or first["obs"])
        arrays = _read_demo(first, keys, [name for name in EXTRA if name in first], f"{src}: {demos[0]}")
        env_args = _env_args(file)
        hz = control_hz or env_args.get("env_kwargs", {}).get("control_freq")
        if not hz:
            hz = DEFAULT_CONTROL_HZ
            warnings.warn(f"{src} does not say its control rate; {hz} Hz is assumed.", stacklevel=2)
        spec = Spec.from_arrays({key: arrays[key] for key in keys}, arrays["action"], control_hz=float(hz))
        if like is not None:
            spec = _annotated(spec, like, str(src))
        extra = {name: arrays[name].shape[1:] for name in EXTRA if name in first}
        wide: Literal["float32", "float64"] = "float64" if first["actions"].dtype == np.float64 else "float32"
        store = EpisodeStore.create(
            dst,
            spec,
            task=task,
            extra=extra,
            origin={"env_args": env_args},
            action_dtype=wide,
            overwrite=overwrite,
        )
        ledger = Ledger()
        for name in demos:
            demo = cast(h5py.Group, file["data"][name])
            arrays = _read_demo(demo, keys, list(extra), f"{src}: {name}")
            arrays["action"] = arrays["action"].astype(wide)
            ledger.add(arrays)
            store.append(
                arrays,
                seed=int(demo.attrs["seed"]) if "seed" in demo.attrs else None,
                success=bool(demo.attrs["success"]) if "success" in demo.attrs else None,
                instruction=str(demo.attrs.get("instruction", instruction)),
            )
    result = EpisodeStore.open(dst)
    ledger.compare(store_ledger(result), f"Import of {src}")
    return result


def import_zarr(
    src: Location, dst: Location, *, control_hz: float | None = None, overwrite: bool = False
) -> EpisodeStore:
    """A store of ours from a Diffusion Policy zarr (which also opens as it is, read-only).

    Raises:
        DataError: not such a zarr, or the result differs from it.
    """
    source = EpisodeStore.open(src, control_hz=control_hz)
    store = EpisodeStore.create(dst, source.spec, task=source.task, extra=source.extra, overwrite=overwrite)
    ledger = Ledger()
    for index in range(len(source)):
        arrays = _as_stored(source.episode(index), list(source.extra))
        arrays["action"] = arrays["action"].astype(np.float32)
        ledger.add(arrays)
        seed, success = int(source.seeds[index]), int(source.successes[index])
        store.append(
            arrays,
            seed=None if seed < 0 else seed,
            success=None if success < 0 else bool(success),
            instruction=source.instructions[index],
        )
    result = EpisodeStore.open(dst)
    ledger.compare(store_ledger(result), f"Import of {src}")
    return result


def _annotated(spec: Spec, like: Spec, where: str) -> Spec:
    """The spec with what another one knows about the action and equally shaped observations."""
    if spec.action.size != like.action.size:
        raise DataError(
            f"{where}: its actions have {spec.action.size} dimensions, the task's have {like.action.size} "
            f"({', '.join(like.action.names)}). Is it of another task?"
        )
    observations = dict(spec.observations)
    for key, known in like.observations.items():
        if key in observations and (known.shape, known.dtype) == (
            observations[key].shape,
            observations[key].dtype,
        ):
            observations[key] = known
    both = Spec(
        observations={**like.observations, **observations}, action=like.action, control_hz=spec.control_hz
    )
    return both.select(list(observations))


def _open(path: str | Path) -> h5py.File:
    if not Path(path).is_file():
        raise DataError(f"{path} does not exist.")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path} is not a readable HDF5 file: {error}") from error


def _demos(file: h5py.File, src: str | Path, filter_key: str | None) -> list[str]:
    group = file.get("data")
    names = [name for name in group or () if name.startswith("demo_") and name[5:].isdigit()]
    if not names:
        raise DataError(f"{src} has no demonstrations: groups data/demo_0, data/demo_1, ... are expected.")
    if filter_key is not None:
        masks = file.get("mask", {})
        if filter_key not in masks:
            raise DataError(f"{src}: " + unknown("filter key", filter_key, masks))
        listed = [name.decode() if isinstance(name, bytes) else str(name) for name in masks[filter_key][:]]
        absent = sorted(set(listed) - set(names))
        if absent or not listed:
            raise DataError(
                f"{src}: mask/{filter_key} lists {absent[0] if absent else 'no demos'}; has {len(names)}."
            )
        names = listed
    elif "total" in group.attrs:
        counted = sum(len(group[name]["actions"]) for name in names if "actions" in group[name])
        if counted != int(group.attrs["total"]):
            raise DataError(f"{src}: 'total' says {group.attrs['total']} steps, its demos have {counted}.")
    return sorted(names, key=lambda name: int(name[5:]))


def _read_demo(
    demo: h5py.Group, keys: Sequence[str], extra: Sequence[str], where: str
) -> dict[str, np.ndarray]:
    for name in ("actions", *extra, *(f"obs/{key}" for key in keys)):
        if name not in demo:
            raise DataError(f"{where} has no {name!r}. Found: {', '.join(demo)}.")
    arrays = {key: np.asarray(demo["obs"][key]) for key in keys}
    arrays |= {name: np.asarray(demo[name]) for name in extra}
    arrays["action"] = np.asarray(demo["actions"])
    steps = int(demo.attrs.get("num_samples", len(arrays["action"])))
    for key, array in arrays.items():
        if len(array) != steps:
            raise DataError(f"{where}: {key!r} has {len(array)} steps, num_samples says {steps}.")
    return _as_stored(arrays, extra)


def _as_stored(arrays: Mapping[str, np.ndarray], extra: Sequence[str]) -> dict[str, np.ndarray]:
    """Extra columns as float64, images and bytes as they are, other observations as float32."""
    stored = {}
    for key, array in arrays.items():
        keep = array.dtype == np.uint8 or key == "action"
        stored[key] = (
            array.astype(np.float64) if key in extra else array if keep else array.astype(np.float32)
        )
    return stored


def _env_args(file: h5py.File) -> dict[str, Any]:
    text = file["data"].attrs.get("env_args") or file["data"].attrs.get("env_info")
    if text is None:
        return {}
    try:
        values = json.loads(text)
    except ValueError as error:
        raise DataError(f"{file.filename}: its env_args are not JSON: {error}") from error
    return values if "env_kwargs" in values else {"env_kwargs": values}
