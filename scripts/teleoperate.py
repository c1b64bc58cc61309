"""Drive a robot, simulated or real, with a keyboard or a SpaceMouse, and record demonstrations."""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="teleoperate",
    purpose="Drive an environment or a robot with a keyboard or a SpaceMouse, and record every step in a "
    "store that train.py reads. With checkpoint=... a policy acts and you take over by touching the device. "
    "Run it again to add episodes. Nothing here is safety-rated.",
    examples=[
        "python scripts/teleoperate.py task=lift_absolute episodes=20",
        "python scripts/teleoperate.py task=lift_absolute robot=panda_sim device=spacemouse",
        "python scripts/teleoperate.py checkpoint=outputs/lift_absolute/diffusion robot=panda_sim",
        "python scripts/train.py task=lift_absolute data=data/lift_absolute_teleop.zarr",
    ],
)
def main(config: dict[str, Any]) -> None:
    """Drive and say what was recorded."""
    from hardware.teleop.run import TeleoperateConfig, teleoperate
    from robopolicy.registry import parse

    settings = parse(TeleoperateConfig, config, "teleoperate")
    kept = teleoperate(settings)
    won = sum(episode.success for episode in kept)
    print(f"{len(kept)} episodes recorded in {settings.store}, {won} of them successful.")
    if kept:
        print(f"Next:\n  python scripts/inspect_data.py data={settings.store}")


if __name__ == "__main__":
    main()
