"""Let a robot practise: the noise of a trained policy is chosen by reinforcement learning, in real time."""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="practise",
    purpose="Let a robot practise behind the guard (DSRL): a trained policy stays as it is, and an actor "
    "learns which noise to give it. Success is measured before and after. Run it again to go on. Nothing "
    "here is safety-rated.",
    examples=[
        "python scripts/practise.py robot=panda_sim checkpoint=outputs/lift_absolute/diffusion minutes=30",
        "python scripts/practise.py robot=panda_sim checkpoint=... method=dsrl minutes=5 episodes=0",
    ],
)
def main(config: dict[str, Any]) -> None:
    """Practise and say where the refined policy is."""
    from hardware.practise import PractiseConfig, practise
    from robopolicy.registry import parse

    settings = parse(PractiseConfig, config, "practise")
    practise(settings)
    print(f"Next:\n  python scripts/deploy.py robot={settings.robot.name} checkpoint={settings.out}/policy")


if __name__ == "__main__":
    main()
