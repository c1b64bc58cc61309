"""Object poses on a topic of their own: perfect perception, made worse on purpose."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from hardware.transport.dds import SENSOR, Participant
from hardware.transport.idl_ros import Header, Point, Pose, PoseStamped, Quaternion, Time
from robopolicy.errors import ConfigError

__all__ = ["Perception", "PerceptionConfig"]


@dataclass(frozen=True, kw_only=True)
class PerceptionConfig:
    """How an object's pose is measured."""

    hz: float = 20.0
    noise: float = 0.0
    """Standard deviation of each coordinate of the position, m."""
    delay_s: float = 0.0
    """From measuring, which the stamp tells, to publishing."""

    def __post_init__(self) -> None:
        if not self.hz > 0 or self.noise < 0 or self.delay_s < 0:
            raise ConfigError(f"Perception needs hz > 0, noise >= 0 and delay_s >= 0, got {self}.")


class Perception:
    """Publishes one body's pose as geometry_msgs/PoseStamped."""

    def __init__(self, participant: Participant, topic: str, frame: str, config: PerceptionConfig) -> None:
        self.config, self._frame = config, frame
        self._writer = participant.writer(topic, PoseStamped, SENSOR)
        self._waiting: deque[PoseStamped] = deque()
        self._due = 0
        self._rng = np.random.default_rng(0)

    def reset(self, seed: int) -> None:
        """Forget poses on their way; noise starts again from a seed."""
        self._waiting.clear()
        self._rng = np.random.default_rng(seed)

    def update(self, now_ns: int, position: np.ndarray, quaternion: np.ndarray) -> None:
        """Measure a position `[3]` and a quaternion `[4]`, real part first; publish what is due."""
        config, waiting = self.config, self._waiting
        if now_ns >= self._due:
            period = int(1e9 / config.hz)
            self._due = max(self._due + period, now_ns - period)
            x, y, z = (position + config.noise * self._rng.normal(size=3)).tolist()
            qw, qx, qy, qz = quaternion.tolist()
            pose = Pose(Point(x, y, z), Quaternion(qx, qy, qz, qw))
            waiting.append(PoseStamped(Header(Time.from_ns(now_ns), self._frame), pose))
        while waiting and now_ns - waiting[0].header.stamp.ns >= 1e9 * config.delay_s:
            self._writer.write(waiting.popleft())
