"""Episodes from a robot: what the policy asked, what was sent, why it differs, and how late everything was.

Recording runs in the policy's process: a full disk is an error there, and the robot goes on being guarded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hardware.messages import Command, Observation
from hardware.spec import CHECKS, RobotSpec
from robopolicy.data.store import EpisodeStore, Location
from robopolicy.errors import DataError, unknown
from robopolicy.spec import Spec

__all__ = ["LATENCIES", "REASONS", "EpisodeRecorder", "EpisodeWriter", "reason_bits", "reason_names"]

REASONS = (*CHECKS, "latched", "starved", "stale_command", "stale_observation", "order", "early", "stalled")
"""What a bit of the column `reasons` means, from the lowest."""
LATENCIES = ("observation_age_s", "chunk_age_s", "late_s")
"""The entries of the column `latency`: age of the observation when the command was made, of the chunk's
observation when it arrived, and by how much the tick was late."""


def reason_bits(reasons: Sequence[str]) -> int:
    """The names of a command's reasons as bits.

    Raises:
        DataError: a reason that has no bit; lists those that have.
    """
    bits = 0
    for reason in reasons:
        if reason not in REASONS:
            raise DataError(unknown("reason", reason, REASONS))
        bits |= 1 << REASONS.index(reason)
    return bits


def reason_names(bits: int) -> tuple[str, ...]:
    """The reverse of `reason_bits`, in the order of `REASONS`."""
    return tuple(name for index, name in enumerate(REASONS) if bits >> index & 1)


class EpisodeWriter:
    """Collects the steps of an episode and commits them to a store at once.

    Args:
        extra: columns beside observations and action, and their row shapes.
        extend: go on with a store that is there already.

    Raises:
        DataError: something else is at the path, or the disk is full.
        SpecMismatch: the store that is there has another spec.
    """

    def __init__(
        self,
        path: Location | Path,
        spec: Spec,
        extra: Mapping[str, tuple[int, ...]],
        *,
        task: Any = None,
        origin: Mapping[str, Any] | None = None,
        extend: bool = True,
    ) -> None:
        if extend and Path(str(path)).exists():
            self.store = EpisodeStore.open(path, "a")
            spec.require(self.store.spec, f"store {path}")
            if self.store.extra != dict(extra):
                raise DataError(f"{path} has the columns {self.store.extra}, wanted {dict(extra)}.")
        else:
            self.store = EpisodeStore.create(path, spec, task=task, extra=extra, origin=origin)
        self._steps: list[dict[str, np.ndarray]] = []

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, row: Mapping[str, np.ndarray]) -> None:
        """Add a step: every observation, the action and every extra column."""
        self._steps.append(dict(row))

    def commit(self, *, seed: int | None = None, success: bool | None = None, instruction: str = "") -> None:
        """Write the episode; the next step begins another.

        Raises:
            DataError: no step was added, or writing failed; the steps are kept, so it can be tried again.
        """
        if not self._steps:
            raise DataError("There is nothing to commit: no step was recorded.")
        arrays = {key: np.stack([row[key] for row in self._steps]) for key in self._steps[0]}
        self.store.append(arrays, seed=seed, success=success, instruction=instruction)
        self._steps.clear()

    def discard(self) -> None:
        """Forget the steps since the last commit."""
        self._steps.clear()


class EpisodeRecorder(EpisodeWriter):
    """Records a robot.

    Beside observations and action, the store gets: `sent`, the joint positions that went out and the
    gripper's opening; `reasons`, `reason_bits` of why they differ; `latency`; `takeover`, 1 where a person
    acted; and `measured`, joint positions and velocities.

    Args:
        spec: observations and action of the policy, as it sees them.
    """

    def __init__(
        self, path: Location | Path, spec: Spec, robot: RobotSpec, *, task: Any = None, extend: bool = False
    ) -> None:
        self.robot, self._spec = robot, spec
        extra: dict[str, tuple[int, ...]] = {
            "sent": (robot.size + 1,),
            "measured": (2 * robot.size,),
            "reasons": (),
            "latency": (len(LATENCIES),),
            "takeover": (),
        }
        origin = {"robot": robot.to_dict(), "reasons": list(REASONS), "latency": list(LATENCIES)}
        super().__init__(path, spec, extra, task=task, origin=origin, extend=extend)

    def step(
        self,
        policy_observation: Mapping[str, np.ndarray],
        action: np.ndarray,
        sent: Command,
        measured: Observation,
        *,
        chunk_age_s: float = 0.0,
        late_s: float = 0.0,
        takeover: bool = False,
    ) -> None:
        """Add a step: what the policy saw and asked, and what `Robot.write` returned for it."""
        gripper = np.nan if sent.gripper is None else sent.gripper
        row = {key: np.asarray(policy_observation[key]) for key in self._spec.observations}
        row["action"] = np.asarray(action, dtype=np.float32)
        # Stores hold finite numbers only; a robot without gripper has an opening of 0.
        row["sent"] = np.nan_to_num(np.append(np.asarray(sent.q, dtype=np.float64), gripper), nan=0.0)
        row["measured"] = np.concatenate([measured.q, measured.dq])
        row["reasons"] = np.asarray(reason_bits(sent.reasons), dtype=np.float64)
        row["latency"] = np.array([1e-9 * (sent.t_ns - measured.t_ns), chunk_age_s, late_s])
        row["takeover"] = np.asarray(takeover, dtype=np.float64)
        self.add(row)
