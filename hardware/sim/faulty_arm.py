"""An arm on ROS 2 topics that does at once what it is told, and whose messages can go wrong.

For tests and `hardware.sim.faults`; it has no physics.
"""

from __future__ import annotations

import threading
import time
from collections import deque

import numpy as np

from hardware.transport.dds import LATCHED, Participant, Quality
from hardware.transport.idl_ros import Bool, Header, JointState, JointTrajectory, Time
from hardware.transport.network import Network

__all__ = ["ARM", "HOME", "FaultyArm"]

ARM = tuple(f"panda_joint{i}" for i in range(1, 8))
HOME = np.array([0.0, 0.1963, 0.0, -2.618, 0.0, 2.9416, 0.7854])


class FaultyArm:
    """Publishes a joint state every 4 ms and records what it is told.

    Args:
        follow: take over the positions it is told; otherwise it stands still.
    """

    def __init__(self, network: Network, *, follow: bool = False) -> None:
        self.participant = Participant(network)
        self.states = self.participant.writer("rt/joint_states", JointState)
        self.trajectories = self.participant.reader(
            "rt/arm_controller/joint_trajectory", JointTrajectory, Quality(depth=1000)
        )
        self.grips = self.participant.reader(
            "rt/gripper_controller/joint_trajectory", JointTrajectory, Quality(depth=1000)
        )
        self.stop = self.participant.writer("rt/stop", Bool, LATCHED)
        self.names = [*reversed(ARM), "panda_finger_joint1"]
        self.position = [*reversed(HOME.tolist()), 0.03]
        self.velocity = [0.0] * 8
        self.skew_ns = 0
        self.lost = 0.0
        """Share of the messages that never arrive."""
        self.doubled = False
        self.garbled = False
        self.late_s = 0.0
        self.frozen = threading.Event()
        self._follow = follow
        self._on_the_way: deque[tuple[float, JointState]] = deque()
        self._rng = np.random.default_rng(0)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._publish, daemon=True)
        self._thread.start()

    def _publish(self) -> None:
        while not self._closing.wait(0.004):
            if self._follow:
                told = self.trajectories.latest()
                if told is not None:
                    self.position[:7] = list(reversed(told.points[0].positions))
                    self.velocity[:7] = list(reversed(told.points[0].velocities))
            if self.frozen.is_set():
                continue
            stamp = Time.from_ns(time.time_ns() + self.skew_ns)
            message = JointState(Header(stamp), self.names, list(self.position), list(self.velocity))
            if self.garbled:
                message.position[int(self._rng.integers(7))] = float("nan")
            if self._rng.random() >= self.lost:
                self._on_the_way.append((time.monotonic() + self.late_s, message))
            while self._on_the_way and self._on_the_way[0][0] <= time.monotonic():
                _, message = self._on_the_way.popleft()
                for _ in range(1 + self.doubled):
                    self.states.write(message)

    def close(self) -> None:
        """Leave the wire."""
        if not self._closing.is_set():
            self._closing.set()
            self._thread.join()
            self.participant.close()
