"""A robot with lerobot's published interface, that does at once what it is told."""

from __future__ import annotations

import time
from typing import Any

import numpy as np


class FakeFollower:
    """Two joints in degrees and shares of the range, a gripper in percent, a camera."""

    def __init__(self, *, calibrated: bool = True, pace_s: float = 0.002, cap: float | None = None) -> None:
        self.position = {"pan.pos": 0.0, "lift.pos": 0.0, "gripper.pos": 50.0}
        self.calibrated, self.pace_s, self.cap = calibrated, pace_s, cap
        self._connected = False
        self.calls: list[str] = []
        self.sent: list[dict[str, float]] = []
        self.breaks: Exception | None = None

    @property
    def observation_features(self) -> dict[str, Any]:
        return {**dict.fromkeys(self.position, float), "front": (4, 6, 3)}

    @property
    def action_features(self) -> dict[str, Any]:
        return dict.fromkeys(self.position, float)

    @property
    def is_connected(self) -> bool:
        return self._connected

    @property
    def is_calibrated(self) -> bool:
        return self.calibrated

    def connect(self, calibrate: bool = True) -> None:
        assert not calibrate  # nobody is there to answer
        self.calls.append("connect")
        self._connected = True

    def get_observation(self) -> dict[str, Any]:
        if self.breaks is not None:
            raise self.breaks
        time.sleep(self.pace_s)
        return {**self.position, "front": np.full((4, 6, 3), 7, np.uint8)}

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        if self.cap is not None:
            near = {
                k: np.clip(v, self.position[k] - self.cap, self.position[k] + self.cap)
                for k, v in action.items()
            }
            action = {key: float(value) for key, value in near.items()}
        self.sent.append(dict(action))
        self.position |= action
        return action

    def disconnect(self) -> None:
        self.calls.append("disconnect")
        self._connected = False
