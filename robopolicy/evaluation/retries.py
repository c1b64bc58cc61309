"""Does a policy try again after a failed grasp?

An attempt begins when open fingers close near the object, and lasts until they do so the next time or the
episode ends. It succeeds if the episode does meanwhile; otherwise the object was missed, or dropped, or is
still held at the end. All of this is read from where fingers and object were (`robopolicy.env.Grasp`), not
from commands: a command that changes for a step moves no finger.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from robopolicy.env import Grasp
from robopolicy.evaluation.statistics import Interval, share_interval, wilson

__all__ = [
    "EMPTY",
    "LASTING",
    "LEFT",
    "LIFTED",
    "NEAR",
    "OPEN",
    "SETTLED",
    "SWING",
    "Attempt",
    "Outcome",
    "RetryRow",
    "attempts",
    "closings",
    "summarise",
]

Outcome = Literal["succeeded", "held", "dropped", "missed"]
OPEN = 0.06
"""Metres between open fingers, at least: wider than what Lift, Can and Square have them hold."""
SWING = 0.02
"""Metres by which open fingers close, at least, and closed ones open."""
SETTLED = 0.002
"""Metres from their closest at which fingers have closed."""
NEAR = 0.15
"""Metres from hand to object while they close, at most: a nut's handle ends 8 cm from its middle."""
LIFTED = 0.03
"""Metres that a held object has risen since they began to close, at least; one that is tipped rises less."""
EMPTY = 0.008
"""Metres between fingers that hold nothing, at most."""
LASTING = 5
"""Steps for which an object is held, at least: a touch can throw it up."""
LEFT = 40
"""Steps in which there is time to try again: of those who fail later it is not asked whether they do."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One closing of the fingers near the object, and what became of it."""

    start: int
    """Step at which they began to close."""
    outcome: Outcome
    failed: int | None = None
    """Step at which they were closed on nothing that rose, or the object was last held; None if neither."""


@dataclass(frozen=True, kw_only=True)
class RetryRow:
    """One episode."""

    seed: int
    success: bool
    steps: int
    """Until its success, or its end."""
    attempts: tuple[Attempt, ...]

    @property
    def failed(self) -> bool:
        """Whether the first attempt failed."""
        return bool(self.attempts) and self.attempts[0].failed is not None

    @property
    def again(self) -> bool:
        """Whether it did and another followed."""
        return self.failed and len(self.attempts) > 1

    @property
    def asked(self) -> bool:
        """Whether it did and another followed, or had the time to."""
        first = self.attempts[0].failed if self.attempts else None
        return first is not None and (self.again or self.steps - first >= LEFT)

    @property
    def recovered(self) -> bool:
        """Whether it did and a later one succeeded."""
        return self.again and self.success


def closings(opening: np.ndarray) -> list[tuple[int, int]]:
    """When open fingers began to close, and when they had `[(start, end), ...]`.

    Args:
        opening: between them, metres `[T]`.
    """
    found: list[tuple[int, int]] = []
    start = 0
    narrowest = np.inf  # since they close; infinite while they are open
    for step, width in enumerate(opening.tolist()):
        if np.isinf(narrowest):
            start = step if width >= opening[start] else start
            if opening[start] >= max(OPEN, width + SWING):
                narrowest = width
        elif width < max(OPEN, narrowest + SWING):
            narrowest = min(narrowest, width)
        else:
            found.append((start, _closed(opening, start, step)))
            start, narrowest = step, np.inf
    return found if np.isinf(narrowest) else [*found, (start, _closed(opening, start, len(opening)))]


def attempts(grasp: Grasp, success: bool) -> tuple[Attempt, ...]:
    """The attempts of an episode.

    Args:
        grasp: until its success, or its end.
        success: whether it succeeded there.
    """
    near = grasp.distance <= NEAR
    tried = [(start, end) for start, end in closings(grasp.opening) if near[start : end + 1].any()]
    found = []
    for number, (start, end) in enumerate(tried, 1):
        last = number == len(tried)
        part = slice(start, None if last else tried[number][0])
        high = grasp.height[part] >= grasp.height[start] + LIFTED
        held = _lasting(high & near[part] & (grasp.opening[part] > EMPTY))
        if last and success:
            found.append(Attempt(start=start, outcome="succeeded"))
        elif last and held[-1]:
            found.append(Attempt(start=start, outcome="held"))
        elif held.any():
            dropped = start + int(np.flatnonzero(held)[-1])
            found.append(Attempt(start=start, outcome="dropped", failed=dropped))
        else:
            found.append(Attempt(start=start, outcome="missed", failed=end))
    return tuple(found)


def summarise(table: Sequence[Sequence[RetryRow]]) -> dict[str, Any]:
    """Shares of episodes with their intervals, JSON-ready.

    Args:
        table: `[S, E]`, the same episodes with policies of S training seeds.
    """

    def share(hits: Callable[[RetryRow], bool], of: Callable[[RetryRow], bool]) -> dict[str, Any]:
        every = np.array([[of(row) for row in rows] for rows in table])
        met = np.array([[hits(row) for row in rows] for rows in table]) & every
        count, asked = int(met.sum()), int(every.sum())
        found: Interval | None = None
        if asked:
            found = wilson(count, asked) if len(table) == 1 else share_interval(met, every)
        return {"count": count, "of": asked, **({} if found is None else asdict(found))}

    rows = [row for one in table for row in one]
    return {
        "training seeds": len(table),
        "attempts": sum(len(row.attempts) for row in rows) / len(rows),
        "success": share(lambda row: row.success, lambda row: True),
        "first attempt failed": share(lambda row: row.failed, lambda row: True),
        "tried again": share(lambda row: row.again, lambda row: row.asked),
        "then succeeded": share(lambda row: row.recovered, lambda row: row.again),
    }


def _closed(opening: np.ndarray, start: int, stop: int) -> int:
    """The first step at which fingers are as good as closest; held things give way for a long time."""
    part = opening[start:stop]
    return start + int(np.argmax(part <= part.min() + SETTLED))


def _lasting(held: np.ndarray) -> np.ndarray:
    """Without the runs of True that are too short."""
    edges = np.flatnonzero(np.diff(held.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    for start, end in edges:
        held[start:end] = end - start >= LASTING
    return held
