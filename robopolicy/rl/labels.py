"""What the steps of stored episodes pay, and where the episodes end, under a convention."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError
from robopolicy.rl.convention import ConventionConfig

__all__ = ["SUCCESS", "StepLabels", "label_steps"]

SUCCESS = "success"
"""Column with a success for every step, in stores that have one."""


@dataclass(frozen=True, kw_only=True)
class StepLabels:
    """One entry for each of the N steps of a store."""

    rewards: np.ndarray
    """float32 `[N]`."""
    succeeded: np.ndarray
    """After the step, bool `[N]`."""
    last: np.ndarray
    """Row of the last step that counts in the step's episode, int64 `[N]`."""
    final: np.ndarray
    """Row of the last step stored of it, int64 `[N]`."""
    won: np.ndarray
    """Whether its episode succeeded, bool `[N]`."""

    @property
    def starts(self) -> np.ndarray:
        """Rows that count, int64 `[M]`."""
        rows = np.arange(len(self.last))
        return rows[rows <= self.last]


def label_steps(store: EpisodeStore, convention: ConventionConfig) -> StepLabels:
    """Rewards and ends of every stored step.

    Which steps succeeded is told by the column "success". In a store without one, the last
    `success_hold` + 1 steps (of the task it was collected on) of a successful episode did. With
    ``terminate`` an episode ends at the first of them. Otherwise it was cut short, like one without success.

    Raises:
        DataError: nothing is known of an episode's success, or its reward is wanted and not stored.
    """
    where, successes, lengths = store.where, store.successes, store.lengths
    if (successes < 0).any():
        raise DataError(f"{where}: it is not known which of {(successes < 0).sum()} episodes succeeded.")
    final = np.cumsum(lengths) - 1
    if SUCCESS in store.extra:
        succeeded = store.read(SUCCESS).reshape(-1) > 0.5
    else:
        hold = int((store.task or {}).get("success_hold", 0))
        succeeded = np.zeros(int(lengths.sum()), bool)
        for last, length, success in zip(final, lengths, successes, strict=True):
            if success:
                succeeded[last - min(hold, length - 1) : last + 1] = True
    if convention.reward == "env":
        if "reward" not in store.extra:
            raise DataError(f"{where} has no column 'reward'; convention.reward=env needs one.")
        paid = store.read("reward").astype(np.float32).reshape(-1)
    else:
        paid = succeeded - np.float32(convention.reward == "cost")
    ends = final.copy()
    if convention.terminate:
        for index, (last, length) in enumerate(zip(final, lengths, strict=True)):
            good = np.flatnonzero(succeeded[last + 1 - length : last + 1])
            if len(good):
                ends[index] = last + 1 - length + good[0]
    return StepLabels(
        rewards=convention.scale * paid.astype(np.float32),
        succeeded=succeeded,
        last=np.repeat(ends, lengths),
        final=np.repeat(final, lengths),
        won=np.repeat(successes == 1, lengths),
    )
