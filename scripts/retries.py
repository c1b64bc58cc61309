"""Does a policy try again after a failed grasp?"""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="retries",
    purpose="How often does a first grasp fail, does the policy try again, and does that succeed?",
    examples=[
        "python scripts/retries.py checkpoints=[outputs/square/a,outputs/square/b] perturb=push",
        "python scripts/retries.py checkpoints=[...] data=data/square.zarr out=results/checks/retries.json",
    ],
)
def main(config: dict[str, Any]) -> None:
    """Run the study and print its table."""
    from robopolicy.evaluation.retry_study import RetryStudyConfig, retry_table, run_study
    from robopolicy.registry import parse

    path, found = run_study(parse(RetryStudyConfig, config, "retries"))
    print(retry_table({path.stem: found}), end="")
    print(f"Written to {path}.")


if __name__ == "__main__":
    main()
