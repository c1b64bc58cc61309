"""The film of an episode on a robot: what its camera's topic carried."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hardware.link import RobotLink

if TYPE_CHECKING:
    from hardware.deploy import WireEpisode

__all__ = ["Film"]


class Film:
    """The newest picture of a stream at every policy step.

    Args:
        stream: its name; empty: nothing is filmed.
    """

    def __init__(self, link: RobotLink, stream: str) -> None:
        self._link, self.stream = link, stream
        self._frames: list[tuple[int, np.ndarray]] = []

    def begin(self) -> None:
        """Of a new episode."""
        self._frames = []

    def watch(self, step: int) -> None:
        """Keep the newest picture, if there is any."""
        if self.stream:
            self._frames += [(step, picture.value) for picture in self._link.stream(self.stream)]

    def write(self, path: Path, episode: WireEpisode, *, first_success: int | None, fps: float) -> bool:
        """An mp4, labelled as evaluations' films are; False when no picture has come."""
        from robopolicy.evaluation.evaluate import EpisodeRow
        from robopolicy.evaluation.video import labelled, write_mp4

        if not self._frames:
            return False
        first = episode.steps if first_success is None else first_success
        row = EpisodeRow(
            index=0, seed=episode.seed, success=episode.success, success_final=episode.success,
            steps=episode.steps, first_success=first if episode.success else -1, total_reward=0.0,
        )  # fmt: skip
        write_mp4(path, iter(labelled(self._frames, row)), fps=fps)
        return True
