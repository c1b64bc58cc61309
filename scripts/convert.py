"""Convert demonstrations between file formats."""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="convert",
    purpose="Convert demonstrations: robomimic or robosuite HDF5 and Diffusion Policy zarr to our zarr, our "
    "zarr to robomimic HDF5. The result is read back and compared.",
    examples=[
        "python scripts/convert.py source=low_dim.hdf5 task=lift out=data/human.zarr replay=true",
        "python scripts/convert.py source=pusht.zarr out=data/pusht.zarr control_hz=10",
        "python scripts/convert.py source=data/lift.zarr out=lift.hdf5",
    ],
)
def main(config: dict[str, Any]) -> None:
    """Convert, say what came out, and replay it if asked."""
    from robopolicy.data.convert import ConvertConfig, convert, file_format
    from robopolicy.errors import ConfigError
    from robopolicy.evaluation.replay import replay
    from robopolicy.evaluation.statistics import wilson
    from robopolicy.registry import parse
    from robopolicy.task import Task

    settings = parse(ConvertConfig, config, "convert")
    store = convert(settings)
    print(f"{settings.target}: {len(store)} episodes, {int(store.lengths.sum())} steps, read back and equal.")
    if settings.replay:
        about = settings.task or store.task
        if about is None:
            raise ConfigError("replay=true needs task=... (see --help for the choices).")
        results = replay(
            store,
            Task.from_dict(about),
            episodes=settings.episodes,
            lanes=settings.lanes,
            workers=settings.workers,
        )
        rate = wilson(sum(results), len(results))
        print(f"Replayed: {sum(results)} of {len(results)} episodes succeed again, {rate}.")
    if file_format(settings.target) == "zarr":
        print(f"Next:\n  python scripts/inspect_data.py data={settings.target}")


if __name__ == "__main__":
    main()
