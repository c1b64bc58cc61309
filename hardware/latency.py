"""Latency matching after UMI (Chi et al. 2024): every stamp is when it was true, every command when it acts.

Measurements are stamped by when they were taken, not by when they arrived; states are interpolated to the
time of the observation; and what is to be done at a time is sent early by the latency of the device that does
it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robopolicy.errors import ConfigError, DataError

__all__ = ["Device", "History", "LatencyEstimator", "measure_latency", "observation_times"]

_STEP_S = 1e-3


@dataclass(frozen=True, kw_only=True)
class Device:
    """A stream or an actuator and its measured latency, in seconds."""

    name: str
    latency_s: float

    def __post_init__(self) -> None:
        if not 0 <= self.latency_s < 2:
            raise ConfigError(f"device {self.name}: latency_s must be in [0, 2), got {self.latency_s}.")


class History:
    """The newest samples of one stream, by the time they were taken."""

    def __init__(self, device: Device, length: int = 256) -> None:
        self.device = device
        self._times: deque[int] = deque(maxlen=length)
        self._values: deque[np.ndarray] = deque(maxlen=length)

    def add(self, received_ns: int, value: np.ndarray) -> None:
        """A sample, by when it was received; out of order it is dropped."""
        taken = received_ns - round(1e9 * self.device.latency_s)
        if not self._times or taken > self._times[-1]:
            self._times.append(taken)
            self._values.append(np.asarray(value))

    @property
    def newest_ns(self) -> int | None:
        """When the newest sample was taken."""
        return self._times[-1] if self._times else None

    def at(self, times_ns: np.ndarray) -> np.ndarray:
        """Values linearly interpolated at times `[T]` -> `[T, ...]`; the ends are held.

        Raises:
            DataError: nothing was received yet.
        """
        times, index, following, share = self._bracket(times_ns)
        values = np.stack([self._values[i] for i in range(len(times))]).astype(np.float64)
        share = share.reshape(-1, *[1] * (values.ndim - 1))
        mixed: np.ndarray = values[index] * (1 - share) + values[following] * share
        return mixed

    def nearest(self, times_ns: np.ndarray) -> list[np.ndarray]:
        """The samples nearest to times `[T]`: for images.

        Raises:
            DataError: nothing was received yet.
        """
        _, index, following, share = self._bracket(times_ns)
        return [self._values[j if s > 0.5 else i] for i, j, s in zip(index, following, share, strict=True)]

    def _bracket(self, times_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        if not self._times:
            raise DataError(f"Nothing was received from {self.device.name} yet.")
        times = np.array(self._times, dtype=np.int64)
        asked = np.clip(np.asarray(times_ns, dtype=np.int64), times[0], times[-1])
        index = np.clip(np.searchsorted(times, asked, side="right") - 1, 0, max(len(times) - 2, 0))
        following = np.minimum(index + 1, len(times) - 1)
        span = np.maximum(times[following] - times[index], 1)
        return times, index, following, (asked - times[index]) / span


def observation_times(histories: Sequence[History], count: int, dt_ns: int) -> np.ndarray:
    """When to observe: `count` times `[To]`, `dt_ns` apart, the last is the newest that all streams reach.

    Raises:
        DataError: a stream has not delivered anything; names it.
    """
    newest = []
    for history in histories:
        if history.newest_ns is None:
            raise DataError(f"Nothing was received from {history.device.name} yet.")
        newest.append(history.newest_ns)
    return min(newest) + dt_ns * np.arange(1 - count, 1)


class LatencyEstimator:
    """How long inference takes: a quantile of a sliding window, without the first, which warms up."""

    def __init__(self, *, window: int = 50, quantile: float = 0.95, warmup: int = 1) -> None:
        self.quantile, self._skip = quantile, warmup
        self._samples: deque[float] = deque(maxlen=window)

    def add(self, seconds: float) -> None:
        """A measured latency."""
        if self._skip > 0:
            self._skip -= 1
            return
        self._samples.append(seconds)

    @property
    def seconds(self) -> float:
        """The estimate; 0 before there is a sample that counts."""
        return float(np.quantile(self._samples, self.quantile)) if self._samples else 0.0

    def steps(self, dt_s: float, consumed: int) -> int:
        """Actions that will be over when the next chunk arrives: never more than were really `consumed`."""
        return min(int(np.ceil(self.seconds / dt_s)), consumed)


def measure_latency(
    sent_ns: np.ndarray, sent: np.ndarray, seen_ns: np.ndarray, seen: np.ndarray, *, longest_s: float = 1.0
) -> float:
    """By how many seconds `seen` follows `sent`: the peak of their correlation, resampled at 1 ms, refined.

    Args:
        sent_ns: increasing times `[N]` of the commands.
        sent: a signal that moves `[N]`.
        seen_ns: increasing times `[M]` of the measurements.
        seen: the measured signal `[M]`.

    Raises:
        DataError: a signal that does not move, or too short an overlap.
    """
    origin = int(sent_ns[0])
    t_sent, t_seen = (sent_ns - origin) * 1e-9, (seen_ns - origin) * 1e-9
    first, last = max(t_sent[0], t_seen[0]), min(t_sent[-1], t_seen[-1])
    if last - first < 2 * longest_s:
        raise DataError(f"The signals overlap for {last - first:.2f} s; {2 * longest_s:g} s are needed.")
    grid = np.arange(first + longest_s, last, _STEP_S)
    wanted = np.interp(grid, t_seen, seen)
    if np.ptp(sent) < 1e-9 or np.ptp(wanted) < 1e-9:
        raise DataError("A signal does not move: its latency cannot be seen.")
    lags = np.arange(0, round(longest_s / _STEP_S))
    scores = np.array([_correlation(wanted, np.interp(grid - lag * _STEP_S, t_sent, sent)) for lag in lags])
    best = int(scores.argmax())
    if 0 < best < len(lags) - 1:
        left, middle, right = scores[best - 1 : best + 2]
        curvature = left - 2 * middle + right
        return float((best + (0.5 * (left - right) / curvature if curvature < 0 else 0.0)) * _STEP_S)
    return best * _STEP_S


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else -1.0
