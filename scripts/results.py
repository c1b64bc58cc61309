"""Write docs/results.md from the files under results/."""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="results",
    purpose="Write the results page from result files and the plan that says which there should be.",
    examples=["python scripts/results.py"],
)
def main(config: dict[str, Any]) -> None:
    """Write the page."""
    from robopolicy.evaluation.results import read_plan, read_results
    from robopolicy.evaluation.tables import write_page

    plan, results = read_plan(config["plan"]), read_results(config["results"])
    write_page(plan, results, config["out"], config["results"])
    done = sum(cell in results for cell in plan.cells())
    print(f"{config['out']}: {done} of {len(plan.cells())} planned cells are run.")


if __name__ == "__main__":
    main()
