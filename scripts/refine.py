"""Let a trained policy practise until it is reliable."""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="refine",
    purpose="Refine a trained policy by reinforcement learning. Run it again to resume an interrupted run.",
    examples=[
        "python scripts/refine.py method=dppo checkpoint=outputs/can/diffusion",
        "python scripts/refine.py method=dppo checkpoint=outputs/can/diffusion steps=500_000 method.epochs=5",
        "python scripts/refine.py -m method=dppo,dsrl seed=0,1,2 checkpoint=outputs/can/diffusion",
    ],
)
def main(config: dict[str, Any]) -> None:
    """Compose, refine, and print what to do next."""
    from robopolicy.registry import parse
    from robopolicy.rl.refine import RefineConfig, prepare

    settings = parse(RefineConfig, config, "refine")
    refinement = prepare(settings)
    resumed = f" (resumed at step {refinement.env_steps:,})" if refinement.resumed else ""
    print(
        f"{refinement.directory}{resumed}: {settings.method['name']} on {settings.checkpoint or 'nothing'}, "
        f"up to {settings.steps:,} environment steps in {settings.lanes} lanes "
        f"on {refinement.refiner.policy.device}"
    )
    refinement.run()
    print(refinement.summary())
    print(f"Next:\n  python scripts/evaluate.py checkpoint={refinement.directory}/best")


if __name__ == "__main__":
    main()
