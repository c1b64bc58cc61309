"""Run a trained policy on a robot."""

from __future__ import annotations

from typing import Any

from robopolicy.cli import command


@command(
    config="deploy",
    purpose="Run a trained policy on a robot, simulated or real, behind the guard. A simulated robot is "
    "started too, in a process that speaks what the real one speaks. Nothing here is safety-rated.",
    examples=[
        "python scripts/deploy.py robot=panda_sim checkpoint=outputs/lift_absolute/diffusion",
        "python scripts/deploy.py robot=panda_sim checkpoint=... session.film=agentview",
        "python scripts/deploy.py checkpoint=... episodes=20 +session.simulator.pose_noise=0.005",
        "python scripts/deploy.py robot=panda_sim checkpoint=... executor.mode=rtc executor.delay_s=0.1",
    ],
)
def main(config: dict[str, Any]) -> None:
    """Deploy and say how it went."""
    from hardware.deploy import DeployConfig, deploy
    from robopolicy.evaluation.statistics import wilson
    from robopolicy.registry import parse

    settings = parse(DeployConfig, config, "deploy")
    episodes = deploy(settings)
    if not episodes:
        print(f"All episodes are in {settings.results} already; more episodes=... go on.")
        return
    won = sum(episode.success for episode in episodes)
    print(f"{won} of {len(episodes)} episodes succeeded: {wilson(won, len(episodes))} (95% Wilson).")
    if settings.record:
        print(f"Recorded in {settings.out}.")


if __name__ == "__main__":
    main()
