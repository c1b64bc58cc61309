"""How many steps of each row of a plan fit into the seconds of one of them?"""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="step_times",
    purpose="How long does a training step of each row of a plan take, and how many fit into the seconds of "
    "diffusion's?",
    examples=["python scripts/step_times.py only=[square/,-compared]"],
)
def main(config: dict[str, Any]) -> None:
    """Measure and print."""
    from robopolicy.benchmark.steps import StepTimesConfig, run_step_times
    from robopolicy.registry import parse

    path, found = run_step_times(parse(StepTimesConfig, config, "step_times"))
    for row in found["rows"]:
        fitting = f"{row['steps_in_equal_seconds']:,} in equal seconds"
        print(f"{row['policy']:32} {row['ms']:7.2f} ms a step, {fitting}")
    print(f"Written to {path}.")


if __name__ == "__main__":
    main()
