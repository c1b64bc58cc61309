"""The scripts. Each is a generator that yields one goal a step for ever, and starts over when it failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from envs.experts.hand import CLOSED, OPEN, Goal, Hand, Pose, Script, finger_yaw, nearest, pointing_down

__all__ = ["SCRIPTS", "Style", "can", "lift", "square"]


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
    turn: float
    """Where any yaw would do: how far the hand turns, radians."""
    spot: tuple[float, float]
    """Where in a free area to put things, -1 to +1."""

    @classmethod
    def draw(cls, strategy: str, rng: np.random.Generator) -> Style:
        """A random style that follows a strategy."""
        return cls(
            strategy=strategy,
            speed=float(rng.uniform(0.65, 0.95)),
            height=float(rng.uniform(0.06, 0.10)),
            side=float(rng.choice([-1.0, 1.0])),
            second_choice=bool(rng.random() < 0.25),
            depth=float(rng.uniform(-0.004, 0.006)),
            turn=float(rng.uniform(-0.5, 0.5)),
            spot=(float(rng.uniform(-1, 1)), float(rng.uniform(-1, 1))),
        )


def lift(hand: Hand, style: Style) -> Script:
    """Grasp the cube by two opposite faces and raise it."""
    while True:
        yaw = _cube_yaw(hand, style)

        def grasp(yaw: float = yaw) -> Pose:
            cube = hand.object
            return Pose(position=cube.position, rotation=pointing_down(yaw)).shifted(z=style.depth)

        yield from _approach(hand, style, grasp)
        yield from hand.grip()
        top, held = hand.pose.shifted(z=0.12), _holding(hand)
        while held():
            yield Goal(pose=top, gripper=CLOSED, speed=style.speed)


def can(hand: Hand, style: Style) -> Script:
    """Grasp the can from above, carry it over the wall between the bins, and let go in its compartment."""
    bin2 = hand.body("bin2").position
    # The near corner of the compartment: its far one is beyond the arm's reach.
    target = bin2 + np.array([0.06 + 0.015 * style.spot[0], 0.06 + 0.015 * style.spot[1], 0.0])
    yaw = finger_yaw(hand.pose.rotation) + style.turn
    floor = hand.object.position[2]
    clear = floor + 0.08 + style.height  # of the can's centre: the walls reach 2 cm above its rest height

    def grasp() -> Pose:
        return Pose(position=hand.object.position, rotation=pointing_down(yaw)).shifted(z=0.012 + style.depth)

    while True:
        yield from _approach(hand, style, grasp, above=0.05)
        yield from hand.grip()
        held = _holding(hand)
        start = hand.object.position
        end = np.append(target[:2], clear)
        if style.strategy == "over":
            vias = [np.append(start[:2], clear)]
        elif style.strategy == "arc":
            middle = 0.5 * (start[:2] + target[:2]) + np.array([0.08 * style.side, 0.0])
            vias = [np.append(start[:2], clear - 0.03), np.append(middle, clear + 0.03)]
        else:
            vias = [np.append(start[:2], clear - 0.03)]
        for via in (*vias, end):
            yield from _transport(hand, style, via, near=0.04, going=held)
        release = floor + (0.01 if style.second_choice else 0.045)
        yield from _transport(
            hand, style, np.append(target[:2], release), near=0.02, going=held, careful=True
        )
        if held():
            yield from _let_go(hand, style)


def square(hand: Hand, style: Style) -> Script:
    """Grasp the nut by its handle, turn it square to the peg, and lower it over the peg."""
    peg = hand.body("peg1").position
    top = peg[2] + 0.1
    first = finger_yaw(hand.pose.rotation)
    while True:
        yaw = _nut_yaw(hand, style, first)

        def grasp(yaw: float = yaw) -> Pose:
            nut = hand.object
            handle = nut.position + 0.06 * nut.rotation[:, 0]
            return Pose(position=handle, rotation=pointing_down(yaw)).shifted(z=0.004 + 0.5 * style.depth)

        yield from _approach(hand, style, grasp)
        yield from hand.grip()
        held = _holding(hand)
        goal_yaw = _peg_yaw(hand, first)

        def turn(goal: float = goal_yaw) -> float:
            return nearest(goal, _nut_angle(hand), 2 * np.pi) - _nut_angle(hand)

        start, clear = hand.object.position, top + 0.02 + 0.5 * style.height
        if style.strategy == "over":
            yield from _transport(hand, style, np.append(start[:2], clear), near=0.03, going=held)
        elif style.strategy == "arc":
            middle = 0.5 * (start[:2] + peg[:2]) + np.array([0.0, 0.06 * style.side])
            yield from _transport(hand, style, np.append(middle, clear), near=0.04, going=held)
        else:
            yield from _transport(hand, style, np.append(start[:2], start[2] + 0.06), near=0.03, going=held)
        above = np.append(peg[:2], clear)
        yield from _transport(hand, style, above, near=0.03, going=held, turn=turn)
        above = np.append(peg[:2], top + 0.025)
        yield from _transport(
            hand, style, above, near=0.006, going=held, turn=turn, aligned=0.06, careful=True
        )
        down = np.append(peg[:2], peg[2] + 0.01)
        yield from _transport(hand, style, down, near=0.01, going=held, turn=turn, careful=True)
        if held():
            yield from _let_go(hand, style)


def _transport(
    hand: Hand,
    style: Style,
    place: np.ndarray,
    *,
    near: float,
    going: Callable[[], bool],
    turn: Callable[[], float] | None = None,
    aligned: float = 3.2,
    careful: bool = False,
) -> Script:
    """Move the held object to a place `[3]`."""
    return hand.reach(
        lambda: hand.carry(lambda: place, turn),
        gripper=CLOSED,
        speed=style.speed * (0.7 if careful else 1.0),
        near=near,
        aligned=aligned,
        steps=120,
        careful=careful,
        going=going,
    )


def _holding(hand: Hand) -> Callable[[], bool]:
    """Whether the object is still where it is now, as seen from the hand."""
    before = np.linalg.norm(hand.object.position - hand.pose.position)
    return lambda: bool(abs(np.linalg.norm(hand.object.position - hand.pose.position) - before) < 0.025)


def _let_go(hand: Hand, style: Style) -> Script:
    """Open, rise and stay there."""
    yield from hand.squeeze(OPEN, 8)
    up = hand.pose.shifted(z=0.12)
    yield from hand.reach(lambda: up, gripper=OPEN, speed=style.speed, near=0.03, steps=20)
    for _ in range(20):
        yield Goal(pose=up, gripper=OPEN, speed=style.speed)


def _nut_angle(hand: Hand) -> float:
    along = hand.object.rotation[:, 0]
    return float(np.arctan2(along[1], along[0]))


def _nut_yaw(hand: Hand, style: Style, first: float) -> float:
    """Fingers across the handle, either way round, within what the last joint can turn."""
    now = finger_yaw(hand.pose.rotation)
    best = nearest(_nut_angle(hand) + np.pi / 2, now, np.pi)
    options = sorted((best + k * np.pi for k in (-1, 0, 1)), key=lambda yaw: abs(yaw - now))
    allowed = [yaw for yaw in options if _reachable(yaw, first)]
    return allowed[1] if style.second_choice and len(allowed) > 1 else allowed[0]


def _peg_yaw(hand: Hand, first: float) -> float:
    """The closest nut angle that fits the peg, that the last joint can turn to, and whose handle does not
    point away from the robot, where the arm ends."""
    angle, yaw = _nut_angle(hand), finger_yaw(hand.pose.rotation)
    yaw = nearest(yaw, first + 0.6, 2 * np.pi)
    options = sorted(
        (nearest(k * np.pi / 2, angle, 2 * np.pi) for k in (1, 2, 3)), key=lambda a: abs(a - angle)
    )
    return next((goal for goal in options if _reachable(yaw + goal - angle, first)), options[0])


def _reachable(yaw: float, first: float) -> bool:
    return -1.8 < yaw - first < 3.1  # the wrist joint starts 0.8 rad off its middle


def _approach(hand: Hand, style: Style, grasp: Callable[[], Pose], *, above: float = 0.035) -> Script:
    """From wherever the hand is to around the object, by the strategy's way, with open fingers."""
    if style.strategy == "over":
        yield from hand.reach(
            lambda: grasp().shifted(z=above + style.height),
            gripper=OPEN,
            speed=style.speed,
            near=0.02,
            aligned=0.15,
        )
    elif style.strategy == "arc":
        side = 0.05 * style.side
        yield from hand.reach(
            lambda: grasp().shifted(y=side, z=above + style.height - 0.02),
            gripper=OPEN,
            speed=style.speed,
            near=0.04,
            aligned=3.2,
        )
    yield from hand.reach(
        lambda: grasp().shifted(z=above), gripper=OPEN, speed=style.speed, near=0.02, aligned=0.2
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


SCRIPTS: dict[str, Callable[[Hand, Style], Script]] = {
    "Lift": lift,
    "PickPlaceCan": can,
    "NutAssemblySquare": square,
}
