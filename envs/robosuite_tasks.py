"""What robopolicy knows of each robosuite task beside what robosuite does."""

from __future__ import annotations

from dataclasses import dataclass

from envs.carrying import ROUTES

__all__ = ["TASKS", "SuiteTask"]


@dataclass(frozen=True, kw_only=True)
class SuiteTask:
    """What a robosuite task is about."""

    object: str
    """The body that the task's expert handles."""
    robots: int = 1
    written_out: bool = False
    """Whether `EndOfStep` computes `object-state` itself."""
    placed: tuple[str, ...] = ()
    """Bodies that a reset moves in the model, not in the state."""
    widest: float = 1.0
    """For how many times robosuite's range of placement there is room."""
    position: slice | None = None
    """Where `object-state` has the object's, if one gripper is to hold it."""
    routes: tuple[str, ...] = ()
    """By which the object is carried, where they are told apart."""


# Further on, cubes and nut would hang over the table's edge, the can would stand in a wall of its bin (in the
# widest range some are already so near that no finger fits between), and the door in the arm.
TASKS = {
    "Lift": SuiteTask(object="cube_main", written_out=True, widest=11.0, position=slice(3)),
    "PickPlaceCan": SuiteTask(object="Can_main", written_out=True, widest=1.25, position=slice(7, 10)),
    "NutAssemblySquare": SuiteTask(
        object="SquareNut_main", written_out=True, widest=2.5, position=slice(7, 10), routes=ROUTES
    ),
    "Door": SuiteTask(object="Door_main", placed=("Door_main",), widest=4.0),
    "Stack": SuiteTask(object="cubeA_main", widest=4.0),
    "TwoArmLift": SuiteTask(object="pot_root", robots=2),
}
