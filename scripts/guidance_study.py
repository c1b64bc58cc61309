"""Six ways to steer a policy by sketches, measured."""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="guidance_study",
    purpose="How near do plans come to sketches, and how often do they collide? Six strategies and controls.",
    examples=["python scripts/guidance_study.py checkpoint=outputs/avoidance_absolute/diffusion"],
)
def main(config: dict[str, Any]) -> None:
    """Run the study, write its table and draw it."""
    from robopolicy.evaluation.guidance_study import GuidanceStudyConfig, run_guidance_study
    from robopolicy.evaluation.steering_plots import frontier
    from robopolicy.registry import parse

    picture = config.pop("picture")
    path, found = run_guidance_study(parse(GuidanceStudyConfig, config, "guidance_study"))
    frontier(found, picture)
    print(f"Written to {path}, drawn in {picture}.")


if __name__ == "__main__":
    main()
