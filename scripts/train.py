"""Train a policy from demonstrations."""

from __future__ import annotations

from collections.abc import Mapping
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
    from robopolicy.learning.train import TrainConfig, prepare
    from robopolicy.policies.policy import Policy
    from robopolicy.registry import parse
    from robopolicy.task import Task

    settings = parse(TrainConfig, config, "train")

    def evaluate_on_selection_seeds(policy: Policy) -> Mapping[str, float]:
        from robopolicy.evaluation.evaluate import evaluate
        from robopolicy.rollout import PolicyActor

        assert settings.task is not None
        task = Task.from_dict(settings.task)
        outcome = evaluate(PolicyActor(policy), task, block="select", progress=False, **settings.evaluate)
        return {"success": outcome.success_rate}

    trainer = prepare(settings, evaluate=evaluate_on_selection_seeds if settings.task else None)
    resumed = f" (resumed at step {trainer.step})" if trainer.step else ""
    parameters = sum(p.numel() for p in trainer.parameters)
    effective = settings.trainer.batch_size * trainer.ranks.world
    print(
        f"{settings.directory}{resumed}: {len(trainer.windows)} windows, {parameters / 1e6:.2f} M parameters, "
        f"batch {effective}, {settings.trainer.steps} steps on {trainer.policy.device}"
    )
    trainer.train()
    where = settings.directory
    target = "" if settings.task else f" data={settings.store_path}"
    print(f"Saved to {where}. Next:\n  python scripts/evaluate.py checkpoint={where}{target}")


if __name__ == "__main__":
    main()
