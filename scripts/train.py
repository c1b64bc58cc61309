"""Train a policy from demonstrations."""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="train",
    purpose="Train a policy from demonstrations. Run it again to resume an interrupted run.",
    examples=[
        "python scripts/train.py task=lift policy=diffusion",
        "python scripts/train.py data=my.zarr policy=diffusion network=unet_small trainer.steps=5000",
        "python scripts/train.py -m task=lift,can seed=0,1,2",
        "torchrun --nproc-per-node 2 scripts/train.py task=lift",
    ],
)
def main(config: dict[str, Any]) -> None:
    """Compose, train, and print what to do next."""
    from robopolicy.evaluation.during import SelectionCheck
    from robopolicy.learning.train import TrainConfig, prepare
    from robopolicy.networks.moe import active_parameters
    from robopolicy.registry import parse

    settings = parse(TrainConfig, config, "train")

    check = SelectionCheck(settings) if settings.task else None
    trainer = prepare(settings, evaluate=check)
    resumed = f" (resumed at step {trainer.step})" if trainer.step else ""
    parameters = sum(p.numel() for p in trainer.parameters)
    idle = sum(p.numel() for p in trainer.policy.parameters()) - active_parameters(trainer.policy)
    active = f" ({(parameters - idle) / 1e6:.2f} M active)" if idle else ""
    effective = settings.trainer.batch_size * trainer.ranks.world
    if first := trainer.ranks.rank == 0:
        print(
            f"{settings.directory}{resumed}: {len(trainer.windows)} windows, {parameters / 1e6:.2f} M "
            f"parameters{active}, batch {effective}, {settings.trainer.steps} steps on "
            f"{trainer.policy.device}"
        )
    trainer.train()
    if not first:
        return
    where = settings.directory
    target = "" if settings.task else f" data={settings.store_path}"
    if (where / "best").exists():
        how = f"{abs(trainer.merit):.3g} {settings.trainer.best} on what it was chosen by"
        print(f"The best on the way ({how}) is in {where}/best.")
    print(f"Saved to {where}. Next:\n  python scripts/evaluate.py checkpoint={where}{target}")


if __name__ == "__main__":
    main()
