"""One checkpoint through everything: cloned, refined, steered, deployed."""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="pipeline",
    purpose="Clone a policy, refine it in a learned world and in MuJoCo, guide it by values, and deploy it "
    "to a simulated robot. Every step is a command that works alone; run it again to go on where it stopped.",
    examples=[
        "python scripts/pipeline.py",
        "python scripts/pipeline.py until=practised",
        "python scripts/pipeline.py out=outputs/try episodes=20",
        "python scripts/pipeline.py stages=g1_reach",
    ],
)
def main(config: dict[str, Any]) -> None:
    """Run the stages and print the table."""
    from robopolicy.evaluation.pipeline import PipelineConfig, run_pipeline
    from robopolicy.registry import parse

    settings = parse(PipelineConfig, config, "pipeline")
    run_pipeline(settings)
    out = settings.out
    print(f"\nTable, figure and film: {out}/pipeline.json, stages.png, stages.mp4.")
    print(f"Reports: {out}/<stage>/report/report.html.")


if __name__ == "__main__":
    main()
