"""Do values rank a policy's chunks, and does choosing by them help?"""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="value_study",
    purpose=(
        "Do values rank a policy's chunks as simulation does, and does choosing by them help? Beside the "
        "policy alone, any of its chunks, and what a perfect value would give."
    ),
    examples=[
        "python scripts/value_study.py checkpoint=outputs/lift/diffusion critic=outputs/lift/iql",
        "python scripts/value_study.py checkpoint=... critic=... block=report states=0 candidates=32",
    ],
)
def main(config: dict[str, Any]) -> None:
    """Run the study and print its tables."""
    from robopolicy.evaluation.value_rank import describe
    from robopolicy.evaluation.value_study import ValueStudyConfig, run_study
    from robopolicy.registry import parse

    path, found = run_study(parse(ValueStudyConfig, config, "value_study"))
    if "ranks" in found:
        print(f"Candidates of {found['ranks']['states']} states, tried out")
        print(describe(found["ranks"]))
    for name, row in found.get("steered", {}).items():
        difference = row["difference"]["interval"]
        print(
            f"{name:8} succeeds {row['success']['value']:.1%}, {difference['value']:+.1%} "
            f"[{difference['low']:+.1%}, {difference['high']:+.1%}] ({row['difference']['verdict']})"
        )
    print(f"Written to {path}.")


if __name__ == "__main__":
    main()
