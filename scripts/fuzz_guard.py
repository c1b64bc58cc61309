"""Send a robot's guard hostile commands and check what it lets through."""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="fuzz_guard",
    purpose="Send a robot's guard hostile commands (NaN, jumps, stale stamps, wrong shapes, ...) and check "
    "every limit of what it lets through. Ends with an error if one was passed.",
    examples=[
        "python scripts/fuzz_guard.py robot=g1_sim commands=100000",
        "python scripts/fuzz_guard.py robot=g1_sim speed=true commands=20000",
    ],
)
def main(config: dict[str, Any]) -> None:
    """Fuzz, print, write the report."""
    from hardware.fuzz import FuzzConfig, run_fuzz
    from robopolicy.registry import parse

    print(run_fuzz(parse(FuzzConfig, config, "fuzz_guard")))


if __name__ == "__main__":
    main()
