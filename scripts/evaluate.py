"""Measure how often a policy succeeds."""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="evaluate",
    purpose="Measure how often a policy succeeds, on episodes nothing was trained or chosen on.",
    examples=[
        "python scripts/evaluate.py checkpoint=outputs/lift/diffusion",
        "python scripts/evaluate.py checkpoint=outputs/lift/diffusion episodes=500 video=0",
        "python scripts/evaluate.py checkpoint=outputs/lift/diffusion sampler=dpm sampler.steps=5",
        "python scripts/evaluate.py checkpoint=outputs/my/diffusion data=my.zarr",
        "python scripts/evaluate.py checkpoint=outputs/lift/diffusion perturb=noise perturb.group=object",
        "python scripts/evaluate.py checkpoint=outputs/avoidance/diffusion coverage=32",
        "python scripts/evaluate.py checkpoint=outputs/lift/bc steer=value steer.critic=outputs/lift/iql",
        "python scripts/evaluate.py policy=expert task=lift",
        "python scripts/evaluate.py policy=replay data=data/lift.zarr episodes=20",
    ],
)
def main(config: dict[str, Any]) -> None:
    """Evaluate and say what was found and where it is."""
    from robopolicy.evaluation.run import EvaluateConfig, run_evaluation
    from robopolicy.registry import parse

    outcome = run_evaluation(parse(EvaluateConfig, config, "evaluate"))
    if outcome.evaluation is None:
        print(f"Written to {outcome.directory}. The success rate needs task=...")
        return
    print(f"Report: {outcome.directory}/report.html")
    print(outcome.evaluation.summary())
    print(f"Success: {outcome.evaluation.success}")


if __name__ == "__main__":
    main()
