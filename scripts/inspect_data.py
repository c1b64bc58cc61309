"""Look at demonstrations before training on them."""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="inspect_data",
    purpose="Look at demonstrations: keys, ranges, lengths, and what is suspicious. Pictures where there are "
    "cameras.",
    examples=[
        "python scripts/inspect_data.py data=data/lift.zarr",
        "python scripts/inspect_data.py data=pusht.zarr control_hz=10 video=true",
    ],
)
def main(config: dict[str, Any]) -> None:
    """Print the report and write the pictures."""
    from robopolicy.evaluation.inspection import InspectConfig, run_inspection
    from robopolicy.registry import parse

    report, files = run_inspection(parse(InspectConfig, config, "inspect_data"))
    print(report)
    if files:
        print("\nWritten:", *files, sep="\n  ")


if __name__ == "__main__":
    main()
