"""Collect demonstrations with a task's scripted expert, or the episodes of a policy."""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="collect",
    purpose=(
        "Collect demonstrations with a task's scripted expert, or record a policy, or random actions, with "
        "all failures. Run it again to go on, or to add more."
    ),
    examples=[
        "python scripts/collect.py task=lift episodes=200",
        "python scripts/collect.py task=lift episodes=20 out=data/noisy.zarr +task.expert.noise=0.1",
        "python scripts/collect.py checkpoint=outputs/lift/diffusion episodes=150",
        "python scripts/collect.py task=lift policy=random episodes=30",
    ],
)
def main(config: dict[str, Any]) -> None:
    """Collect and say what was kept."""
    from robopolicy.evaluation.collect import collect
    from robopolicy.evaluation.recorded import CollectConfig, recorded
    from robopolicy.registry import parse

    settings = parse(CollectConfig, config, "collect")
    who = recorded(settings)
    path = settings.out or f"data/{who.task.name}{who.suffix}.zarr"
    result = collect(
        who.task,
        path,
        episodes=settings.episodes,
        lanes=settings.lanes,
        workers=settings.workers,
        offset=who.offset if settings.offset is None else settings.offset,
        max_attempts=settings.max_attempts,
        actor=who.actor,
        origin=who.origin,
    )
    print(result.summary())
    print(f"Next:\n  python scripts/inspect_data.py data={path}")
    name = who.task.name
    if who.actor is None:
        print(f"  python scripts/train.py task={name}" + (f" data={path}" if settings.out else ""))
    elif settings.checkpoint is not None:
        print(f"  python scripts/train_value.py task={name} data=[data/{name}.zarr,{path}]")
    else:
        print(f"  python scripts/train_world.py data=[data/{name}.zarr,{path}]")


if __name__ == "__main__":
    main()
