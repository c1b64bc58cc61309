"""Compare policies that were evaluated on the same episodes."""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="compare",
    purpose="Compare policies that were evaluated on the same episodes: paired differences and strengths. "
    "With proxies, tell whether a cheaper way to judge ranks them alike (MMRV, correlations).",
    examples=[
        "python scripts/compare.py evaluations=[outputs/lift/diffusion,outputs/lift/gmm]",
        "python scripts/compare.py evaluations=[real/a,real/b,real/c] proxies=[sim/a,sim/b,sim/c]",
    ],
)
def main(config: dict[str, Any]) -> None:
    """Print the table."""
    from robopolicy.evaluation.compare import CompareConfig, compare, table
    from robopolicy.registry import parse

    print(table(compare(parse(CompareConfig, config, "compare"))))


if __name__ == "__main__":
    main()
