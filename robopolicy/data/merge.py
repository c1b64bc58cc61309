"""Episodes of several stores in one: what ``scripts/merge_data.py`` runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from robopolicy.data.store import EpisodeStore
from robopolicy.errors import ConfigError, DataError

__all__ = ["MergeConfig", "merge"]


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """The root of ``configs/merge_data.yaml``."""

    data: tuple[str, ...]
    out: str
    successful: bool = False
    """Only episodes that are known to have succeeded."""
    episodes: int | None = None
    """At most so many of each store, the first ones."""
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not self.data or (self.episodes is not None and self.episodes < 1):
            raise ConfigError(f"Need at least one store and episodes >= 1: {self.data}, {self.episodes}.")
        if Path(self.out).resolve() in {Path(path).resolve() for path in self.data}:
            raise ConfigError(f"{self.out} would be written over itself; give another out=...")


def merge(config: MergeConfig) -> EpisodeStore:
    """Copy the chosen episodes, in order, with their seeds, success and instructions.

    A task that all stores share is the new store's; columns that one of them lacks are left out. An
    episode that two stores have is an error: it would count twice.

    Raises:
        DataError: nothing is left, or an episode of a simulator's seed comes twice.
        SpecMismatch: the stores differ in what they hold.
    """
    stores = [EpisodeStore.open(path) for path in config.data]
    first = stores[0]
    for path, store in zip(config.data[1:], stores[1:], strict=True):
        first.spec.require(store.spec, path)
        store.spec.require(first.spec, config.data[0])
    chosen = [
        [i for i in range(len(store)) if store.successes[i] == 1 or not config.successful][: config.episodes]
        for store in stores
    ]
    if not any(chosen):
        kind = "successful " if config.successful else ""
        raise DataError(f"There is no {kind}episode in {', '.join(config.data)}.")
    _refuse_twins(config.data, stores, chosen)
    extra = {
        key: shape for key, shape in first.extra.items() if all(s.extra.get(key) == shape for s in stores)
    }
    tasks = [store.task for store in stores]
    merged = EpisodeStore.create(
        config.out,
        first.spec,
        task=tasks[0] if all(task == tasks[0] for task in tasks) else None,
        extra=extra,
        overwrite=config.overwrite,
    )
    kept = {"action", *extra, *(k for k, o in first.spec.observations.items() if o.kind != "text")}
    for store, indices in zip(stores, chosen, strict=True):
        for i in indices:
            seed, success = int(store.seeds[i]), int(store.successes[i])
            merged.append(
                {key: rows for key, rows in store.episode(i).items() if key in kept},
                seed=None if seed < 0 else seed,
                success=None if success < 0 else bool(success),
                instruction=store.instructions[i],
            )
    return merged


def _refuse_twins(paths: tuple[str, ...], stores: list[EpisodeStore], chosen: list[list[int]]) -> None:
    """The same actions from the same seed are the same episode, unless other words said what to do."""
    seen: dict[tuple[int, str, bytes], str] = {}
    for path, store, indices in zip(paths, stores, chosen, strict=True):
        ends = store.episode_ends
        for i in indices:
            seed = int(store.seeds[i])
            if seed < 0:
                continue
            actions = store.read("action", slice(int(ends[i] - store.lengths[i]), int(ends[i])))
            key = seed, store.instructions[i], actions.tobytes()
            if key in seen:
                raise DataError(f"Episode {i} of {path}, seed {seed}, is in {seen[key]} too.")
            seen[key] = path
