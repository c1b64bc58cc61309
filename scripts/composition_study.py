"""Two policies as one, against each of them and against one that was trained on everything."""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="composition_study",
    purpose="Success of two policies composed, of each alone, and of one trained on all demonstrations.",
    examples=[
        "python scripts/composition_study.py first=outputs/a second=outputs/b weak=outputs/c pooled=outputs/d"
    ],
)
def main(config: dict[str, Any]) -> None:
    """Run the study, write its table and draw it."""
    from robopolicy.evaluation.composition_study import CompositionStudyConfig, run_composition_study
    from robopolicy.evaluation.steering_plots import compositions
    from robopolicy.registry import parse

    picture = config.pop("picture")
    path, found = run_composition_study(parse(CompositionStudyConfig, config, "composition_study"))
    compositions(found, picture)
    print(f"Written to {path}, drawn in {picture}.")


if __name__ == "__main__":
    main()
