"""Learn values of action chunks from recorded episodes."""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="train_value",
    purpose="Learn values of action chunks from recorded episodes. Run it again to resume.",
    examples=[
        "python scripts/train_value.py task=lift data=[data/lift.zarr,data/lift_policy.zarr]",
        "python scripts/train_value.py task=lift value=calql value.action_horizon=1",
        "python scripts/train_value.py data=my.zarr value=riql steps=50000",
    ],
)
def main(config: dict[str, Any]) -> None:
    """Compose, learn, and print what to do next."""
    from robopolicy.registry import parse
    from robopolicy.values.train import TrainValueConfig, prepare

    settings = parse(TrainValueConfig, config, "train_value")
    trainer = prepare(settings)
    resumed = f" (resumed at step {trainer.step})" if trainer.step else ""
    data = trainer.data
    print(
        f"{settings.directory}{resumed}: {len(data)} chunks of {settings.value.action_horizon} actions, "
        f"{data.wins} of {data.episodes} episodes succeed, {settings.steps} steps on {trainer.policy.device}"
    )
    if data.wins == data.episodes:
        print(
            "No episode fails: values will say how soon, not whether. Record the policy that they are to "
            "steer with scripts/collect.py checkpoint=..."
        )
    trainer.train()
    where = settings.directory
    print(
        f"Saved to {where}. Next:\n"
        f"  python scripts/evaluate.py checkpoint=<policy> steer=value steer.critic={where}\n"
        f"  python scripts/evaluate.py checkpoint={where}"
    )


if __name__ == "__main__":
    main()
