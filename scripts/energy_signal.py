"""Does a policy's energy say when something is wrong?"""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="energy_signal",
    purpose="How well does a policy's energy tell failing episodes and biased readings? With four baselines.",
    examples=[
        "python scripts/energy_signal.py checkpoint=outputs/lift/ebt reference=outputs/lift/dp data=lift.zarr"
    ],
)
def main(config: dict[str, Any]) -> None:
    """Run the study and print its table."""
    from robopolicy.evaluation.energy_study import EnergyStudyConfig, run_study
    from robopolicy.registry import parse

    path, found = run_study(parse(EnergyStudyConfig, config, "energy_signal"))
    for what in ("failing, matched times", "failing, any time", "biased readings"):
        print(f"AUROC, {what}")
        if isinstance(found[what], str):
            print(f"  {found[what]}")
            continue
        for name, value in found[what].items():
            print(f"  {name:24} {value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]")
    print(f"Written to {path}.")


if __name__ == "__main__":
    main()
