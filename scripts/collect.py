"""Collect demonstrations with a task's scripted expert, or the episodes of a policy."""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="collect",
    purpose=(
        "Collect demonstrations with a task's scripted expert, or record a policy with its failures. Run it "
        "again to go on, or to add more."
    ),
    examples=[
        "python scripts/collect.py task=lift episodes=200",
        "python scripts/collect.py task=lift episodes=20 out=data/noisy.zarr +task.expert.noise=0.1",
        "python scripts/collect.py checkpoint=outputs/lift/diffusion episodes=150",
    ],
)
def main(config: dict[str, Any]) -> None:
    """Collect and say what was kept."""
    from robopolicy.errors import ConfigError
    from robopolicy.evaluation.collect import POLICY_OFFSET, collect
    from robopolicy.evaluation.run import CollectConfig
    from robopolicy.registry import parse
    from robopolicy.task import Task

    settings = parse(CollectConfig, config, "collect")
    task = None if settings.task is None else Task.from_dict(settings.task)
    policy = None
    if settings.checkpoint is not None:
        from robopolicy.learning.checkpoint import load
        from robopolicy.learning.train import choose_device

        policy = load(settings.checkpoint, device=choose_device(settings.device))
        task = task or policy.provenance.task
    if task is None:
        raise ConfigError("Give task=... (see --help for the choices).")
    path = settings.out or f"data/{task.name}{'' if policy is None else '_policy'}.zarr"
    start = 0 if policy is None else POLICY_OFFSET
    result = collect(
        task,
        path,
        episodes=settings.episodes,
        lanes=settings.lanes,
        workers=settings.workers,
        offset=start if settings.offset is None else settings.offset,
        max_attempts=settings.max_attempts,
        policy=policy,
        origin=settings.checkpoint or "",
    )
    print(result.summary())
    print(f"Next:\n  python scripts/inspect_data.py data={path}")
    if policy is None:
        data = f" data={path}" if settings.out else ""
        print(f"  python scripts/train.py task={task.name}{data}")
    else:
        print(f"  python scripts/train_value.py task={task.name} data=[data/{task.name}.zarr,{path}]")


if __name__ == "__main__":
    main()
