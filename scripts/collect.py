"""Collect demonstrations with a task's scripted expert."""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="collect",
    purpose="Collect demonstrations with a task's scripted expert. Run it again to go on, or to add more.",
    examples=[
        "python scripts/collect.py task=lift episodes=200",
        "python scripts/collect.py task=lift episodes=20 out=data/noisy.zarr +task.expert.noise=0.1",
    ],
)
def main(config: dict[str, Any]) -> None:
    """Collect and say what was kept."""
    from robopolicy.errors import ConfigError
    from robopolicy.evaluation.collect import collect
    from robopolicy.evaluation.run import CollectConfig
    from robopolicy.registry import parse
    from robopolicy.task import Task

    settings = parse(CollectConfig, config, "collect")
    if settings.task is None:
        raise ConfigError("Give task=... (see --help for the choices).")
    task = Task.from_dict(settings.task)
    path = settings.out or f"data/{task.name}.zarr"
    result = collect(
        task,
        path,
        episodes=settings.episodes,
        lanes=settings.lanes,
        workers=settings.workers,
        offset=settings.offset,
        max_attempts=settings.max_attempts,
    )
    print(result.summary())
    data = f" data={path}" if settings.out else ""
    print(f"Next:\n  python scripts/inspect_data.py data={path}")
    print(f"  python scripts/train.py task={task.name}{data}")


if __name__ == "__main__":
    main()
