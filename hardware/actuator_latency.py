"""How late a robot's joints follow what they are sent, from a recording of it.

    python -m hardware.actuator_latency outputs/deploy/episodes.zarr

``session.player.lead_s`` makes up for it.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from hardware.latency import measure_latency
from hardware.spec import RobotSpec
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError, RobopolicyError

__all__ = ["LEAST_MOTION", "actuator_latency", "main"]

LEAST_MOTION = 0.01  # rad, standard deviation within an episode


def actuator_latency(store: EpisodeStore, *, longest_s: float = 0.5) -> dict[str, list[float]]:
    """Seconds by which each joint follows, one number for every episode that moves it enough.

    Raises:
        DataError: the store is not a recording of a robot, or none of its episodes is long enough.
    """
    robot = store.origin.get("robot")
    if robot is None or not {"sent", "measured", "latency"} <= store.extra.keys():
        raise DataError(f"{store.where} is not a recording of a robot, such as deploy.py makes.")
    found: dict[str, list[float]] = {joint.name: [] for joint in RobotSpec.from_dict(robot).joints}
    for number in range(len(store)):
        episode = store.episode(number)
        times = np.arange(len(episode["action"])) / store.spec.control_hz
        if times[-1] < 3 * longest_s:
            continue
        sent_ns = np.round(1e9 * times).astype(np.int64)
        seen_ns = np.round(1e9 * (times - episode["latency"][:, 0])).astype(np.int64)
        for index, joint in enumerate(found):
            asked, done = episode["sent"][:, index], episode["measured"][:, index]
            if min(asked.std(), done.std()) > LEAST_MOTION:
                found[joint].append(measure_latency(sent_ns, asked, seen_ns, done, longest_s=longest_s))
    if not any(found.values()):
        raise DataError(
            f"{store.where}: in none of its {len(store)} episodes a joint moves for {3 * longest_s:g} s."
        )
    return found


def main() -> None:
    """Print a line for each joint."""
    parser = argparse.ArgumentParser(description="How late a robot's joints follow, from a recording of it.")
    parser.add_argument("data", help="store of a deployment or of teleoperation")
    parser.add_argument(
        "--longest", type=float, default=0.5, metavar="SECONDS", help="longer is not looked for"
    )
    arguments = parser.parse_args()
    try:
        found = actuator_latency(EpisodeStore.open(arguments.data), longest_s=arguments.longest)
    except RobopolicyError as error:
        sys.exit(f"error: {error}")
    for joint, seconds in found.items():
        print(f"{joint:28} {_told(1e3 * np.array(seconds)) if seconds else 'hardly moves'}")


def _told(ms: np.ndarray) -> str:
    return f"{np.median(ms):6.1f} ms, {ms.min():.1f} to {ms.max():.1f} in {len(ms)} episodes"


if __name__ == "__main__":
    main()
