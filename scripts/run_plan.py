"""Collect, train and evaluate everything in a plan."""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="run_plan",
    purpose="Run the cells of a plan that have no result file yet, in order. Again to go on, twice at "
    "once to share the cells.",
    examples=["python scripts/run_plan.py", "python scripts/run_plan.py only=can hours=2"],
)
def main(config: dict[str, Any]) -> None:
    """Run cells until all have a result file or the time is up."""
    from robopolicy.evaluation.plan import RunPlanConfig, run_plan
    from robopolicy.registry import parse

    done, left = run_plan(parse(RunPlanConfig, config, "run_plan"))
    print(f"{done} cells run, {left} left. Next:\n  python scripts/results.py")


if __name__ == "__main__":
    main()
