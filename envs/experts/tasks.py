"""The scripts. Each is a generator that yields one goal a step for ever, and starts over when it failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from envs.experts.hand import CLOSED, OPEN, Goal, Hand, Pose, Script, finger_yaw, nearest, pointing_down


@dataclass(frozen=True, kw_only=True)
class Style:
    """What one episode's demonstrator is like."""

    strategy: str
    speed: float
    height: float
    """Clearance kept above things, metres."""
    side: float
    """-1 or +1: the way round an arc, and the second choice among equivalent grasps."""
    second_choice: bool
    depth: float
    """Offset of the grasp height, metres."""

    @classmethod
    def draw(cls, strategy: str, rng: np.random.Generator) -> Style:
        """A random style that follows a strategy."""
        return cls(
            strategy=strategy,
            speed=float(rng.uniform(0.55, 0.9)),
            height=float(rng.uniform(0.06, 0.10)),
            side=float(rng.choice([-1.0, 1.0])),
            second_choice=bool(rng.random() < 0.25),
            depth=float(rng.uniform(-0.004, 0.006)),
        )


def lift(hand: Hand, style: Style) -> Script:
    """Grasp the cube by two opposite faces and raise it."""
    table = hand.object.position[2]
    while True:
        yaw = _cube_yaw(hand, style)

        def grasp(yaw: float = yaw) -> Pose:
            cube = hand.object
            return Pose(position=cube.position, rotation=pointing_down(yaw)).shifted(z=style.depth)

        yield from _approach(hand, style, grasp)
        yield from hand.squeeze(CLOSED, steps=14, until=hand.holds)
        top = hand.pose.shifted(z=0.12)
        yield from hand.reach(lambda top=top: top, gripper=CLOSED, speed=style.speed, near=0.02, steps=40)
        while hand.object.position[2] > table + 0.03:
            yield Goal(pose=top, gripper=CLOSED, speed=style.speed)


def _approach(hand: Hand, style: Style, grasp: Callable[[], Pose]) -> Script:
    """From wherever the hand is to around the object, by the strategy's way, with open fingers."""
    if style.strategy == "over":
        yield from hand.reach(
            lambda: grasp().shifted(z=style.height), gripper=OPEN, speed=style.speed, near=0.02, aligned=0.15
        )
    elif style.strategy == "arc":
        side = 0.05 * style.side
        yield from hand.reach(
            lambda: grasp().shifted(y=side, z=style.height + 0.02),
            gripper=OPEN,
            speed=style.speed,
            near=0.04,
            aligned=3.2,
        )
    yield from hand.reach(
        lambda: grasp().shifted(z=0.035), gripper=OPEN, speed=style.speed, near=0.02, aligned=0.2
    )
    yield from hand.reach(
        grasp, gripper=OPEN, speed=0.7 * style.speed, near=0.008, aligned=0.12, careful=True
    )


def _cube_yaw(hand: Hand, style: Style) -> float:
    along = hand.object.rotation[:, 0]
    now = finger_yaw(hand.pose.rotation)
    best = nearest(float(np.arctan2(along[1], along[0])), now, np.pi / 2)
    if not style.second_choice:
        return best
    return best + (np.pi / 2 if best < now else -np.pi / 2)


SCRIPTS: dict[str, Callable[[Hand, Style], Script]] = {"Lift": lift}
