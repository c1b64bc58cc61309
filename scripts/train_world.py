"""Train a world model on recorded episodes."""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="train_world",
    purpose="Learn dynamics and success from recorded episodes. Run it again to resume an interrupted run.",
    examples=[
        "python scripts/train_world.py data=[data/soccer.zarr,data/soccer_policy.zarr]",
        "python scripts/train_world.py data=[data/push.zarr,data/push_policy.zarr] world.members=3",
    ],
)
def main(config: dict[str, Any]) -> None:
    """Compose, train, and say how well success is told."""
    from robopolicy.registry import parse
    from robopolicy.world.train import TrainWorldConfig, prepare

    settings = parse(TrainWorldConfig, config, "train_world")
    training = prepare(settings)
    world, trainer = training.trainer.policy, training.trainer
    millions = sum(p.numel() for p in world.parameters()) / 1e6
    resumed = f", resumed at step {trainer.step}" if trainer.step else ""
    print(
        f"{training.directory}: {len(trainer.windows)} windows of {', '.join(world.config.tasks)}, "
        f"{len(training.held.episodes)} episodes held out, {millions:.2f} M parameters on {world.device}"
        f"{resumed}"
    )
    training.run()
    print(training.summary())
    print(
        f"Next:\n  python scripts/refine.py checkpoint=... env=imagined world={training.directory}\n"
        f"  python -m robopolicy.world.fidelity {training.directory}"
    )


if __name__ == "__main__":
    main()
