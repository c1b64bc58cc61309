"""Chunks of actions played by time: what to do now is a function of the clock, not of a counter.

A chunk says what holds at which time. A new one takes over a little after it arrives, cross-faded from the
old; between its rows a cubic runs through them. When a chunk ends without a successor there is nothing to
play and the caller holds. Standing still does not use chunks up: one that arrives then starts where the
motion stopped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hardware.messages import ActionChunk
from robopolicy.errors import ConfigError

__all__ = ["ChunkPlayer", "PlayerConfig", "Playing", "TemporalEnsemble", "Trajectory", "ensemble_weights"]

_NEVER = -(2**62)


@dataclass(frozen=True, kw_only=True)
class PlayerConfig:
    """How chunks are played."""

    blend_s: float = 0.1
    """Time over which a new chunk takes over from the old."""
    margin_s: float = 0.01
    """A new chunk begins to take over so long after it arrives."""
    max_age_s: float = 0.5
    """A chunk whose newest observation is older than this is refused."""
    lead_s: tuple[float, ...] = (0.0,)
    """How much earlier than its time an action is sent, one number for all columns or one each: the
    latency of the device that executes it."""

    def __post_init__(self) -> None:
        for name in ("blend_s", "margin_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"player.{name} must be >= 0, got {getattr(self, name)}.")
        if not self.max_age_s > 0:
            raise ConfigError(f"player.max_age_s must be positive, got {self.max_age_s}.")
        if not self.lead_s or min(self.lead_s) < 0:
            raise ConfigError(f"player.lead_s are numbers >= 0, got {self.lead_s}.")


@dataclass(frozen=True, slots=True)
class Playing:
    """What to do at one time: values `[Da]` and their rate of change `[Da]`."""

    value: np.ndarray
    rate: np.ndarray


class Trajectory:
    """A chunk as a curve: cubic Hermite through its rows, with central differences as slopes.

    Before the first row and after the last it stands still there.
    """

    def __init__(self, t0_ns: int, dt_ns: int, rows: np.ndarray) -> None:
        self.t0_ns, self.dt_ns, self.rows = t0_ns, dt_ns, rows
        self.end_ns = t0_ns + (len(rows) - 1) * dt_ns
        self._slopes = np.gradient(rows, axis=0) if len(rows) > 1 else np.zeros_like(rows)
        self._columns = np.arange(rows.shape[1])

    def at(self, t_ns: np.ndarray) -> Playing:
        """Value and rate, each column at its own time `[Da]`."""
        last = len(self.rows) - 1
        place = (t_ns - self.t0_ns) / self.dt_ns
        inside = np.minimum(np.maximum(place, 0.0), last)
        index = np.minimum(inside.astype(int), max(last - 1, 0))
        following = np.minimum(index + 1, last)
        s = inside - index
        p0, p1 = self.rows[index, self._columns], self.rows[following, self._columns]
        m0, m1 = self._slopes[index, self._columns], self._slopes[following, self._columns]
        a, b = 2 * (p0 - p1) + m0 + m1, 3 * (p1 - p0) - 2 * m0 - m1
        value = ((a * s + b) * s + m0) * s + p0
        moving = (place > 0) & (place < last)
        rate = np.where(moving, ((3 * a * s + 2 * b) * s + m0) * (1e9 / self.dt_ns), 0.0)
        return Playing(value, rate)


class ChunkPlayer:
    """Plays one chunk after another. Needs no clock: the caller gives the time.

    Args:
        size: Da, the number of action dimensions.
    """

    def __init__(self, config: PlayerConfig, size: int) -> None:
        if len(config.lead_s) not in (1, size):
            raise ConfigError(f"player.lead_s has {len(config.lead_s)} numbers for {size} action dimensions.")
        self.config, self.size = config, size
        self._lead = np.broadcast_to(np.array([round(1e9 * s) for s in config.lead_s]), (size,))
        self._plan: list[tuple[Trajectory, int]] = []
        self._newest_obs = _NEVER
        self._standing_since: int | None = _NEVER
        self.starved = 0
        """How often a chunk ended without a successor."""
        self.refused: dict[str, int] = {}
        self.overlap_error = 0.0
        """How far the newest chunk was from the one before it at the moment it took over."""
        self.age_s = 0.0
        """Age of the newest chunk's observation when it arrived."""

    def submit(self, chunk: ActionChunk, now_ns: int, standing: np.ndarray | None = None) -> str | None:
        """Take over a chunk.

        Args:
            standing: where the robot is held while nothing is played `[Da]`: the chunk is faded in from it.

        Returns:
            None, or why it was refused: "malformed", "not finite", "older", "too old" or "over".
        """
        reason = self._refusal(chunk, now_ns)
        if reason is not None:
            self.refused[reason] = self.refused.get(reason, 0) + 1
            return reason
        splice = now_ns + round(1e9 * self.config.margin_s)
        t0 = chunk.t0_ns + self._stood(chunk, splice + int(self._lead.max()))
        new = Trajectory(t0, chunk.dt_ns, np.array(chunk.actions, dtype=np.float64))
        times = splice + self._lead
        if self._standing_since is not None:
            held = new.at(times).value if standing is None else np.array(standing, dtype=np.float64)
            self._plan = [(Trajectory(splice, 1, held[None]), _NEVER)]
        self.overlap_error = float(np.abs(new.at(times).value - self._play(times).value).max())
        self._plan.append((new, splice))
        self._newest_obs, self._standing_since = chunk.t_obs_ns, None
        self.age_s = 1e-9 * (now_ns - chunk.t_obs_ns)
        return None

    def sample(self, now_ns: int) -> Playing | None:
        """What to send now; None if there is nothing to play: hold."""
        if self._standing_since is not None:
            return None
        times = now_ns + self._lead
        newest, splice = self._plan[-1]
        if now_ns > splice and int(times.min()) > newest.end_ns:
            self.starved += 1
            self._standing_since = now_ns
            return None
        blend = round(1e9 * self.config.blend_s)
        while len(self._plan) > 1 and now_ns >= self._plan[1][1] + blend:
            del self._plan[0]
        return self._play(times)

    def stand(self, now_ns: int) -> None:
        """Forget what is being played: the robot was stopped."""
        if self._standing_since is None:
            self._standing_since = now_ns

    def remainder(self, now_ns: int, dt_ns: int) -> np.ndarray:
        """What is still to be played, in rows of `dt_ns` from now on `[T, Da]`; no rows while standing."""
        if self._standing_since is not None:
            return np.zeros((0, self.size))
        rows = max(0, math.ceil((self._plan[-1][0].end_ns - now_ns) / dt_ns))
        times = now_ns + dt_ns * np.arange(rows)
        return np.array([self._play(np.full(self.size, t)).value for t in times]).reshape(rows, self.size)

    def _play(self, times: np.ndarray) -> Playing:
        """Every trajectory of the plan cross-faded into the next, with continuous value and rate."""
        blend = 1e9 * self.config.blend_s
        playing = self._plan[0][0].at(times)
        for trajectory, splice in self._plan[1:]:
            new, since = trajectory.at(times), times - self._lead - splice
            if blend == 0:
                playing = new if int(since[0]) >= 0 else playing
                continue
            s = np.minimum(np.maximum(since / blend, 0.0), 1.0)
            share, growth = s * s * (3 - 2 * s), 6 * s * (1 - s) * (1e9 / blend)
            change = new.value - playing.value
            playing = Playing(
                playing.value + share * change,
                playing.rate + share * (new.rate - playing.rate) + growth * change,
            )
        return playing

    def _refusal(self, chunk: ActionChunk, now_ns: int) -> str | None:
        actions = chunk.actions
        if (
            not isinstance(actions, np.ndarray)
            or actions.ndim != 2
            or actions.shape[1] != self.size
            or not len(actions)
            or actions.dtype.kind not in "fiu"
            or chunk.dt_ns <= 0
        ):
            return "malformed"
        if not np.isfinite(actions).all():
            return "not finite"
        if chunk.t_obs_ns < self._newest_obs:
            return "older"
        if now_ns - chunk.t_obs_ns > 1e9 * self.config.max_age_s:
            return "too old"
        if chunk.t0_ns + self._stood(chunk, now_ns) + (len(actions) - 1) * chunk.dt_ns < now_ns:
            return "over"
        return None

    def _stood(self, chunk: ActionChunk, until_ns: int) -> int:
        """For how long the robot has stood still since the chunk's first action was due."""
        if self._standing_since is None:
            return 0
        return max(0, until_ns - max(self._standing_since, chunk.t0_ns))


class TemporalEnsemble:
    """The average of all chunks that say something about now, weighted exp(-m i), i = 0 the oldest (ACT).

    With a positive `m` older chunks count more, as in the paper.
    """

    def __init__(self, size: int, *, m: float = 0.01, max_age_s: float = 0.5) -> None:
        self.size, self.m, self.max_age_s = size, m, max_age_s
        self._chunks: list[tuple[int, Trajectory]] = []

    def submit(self, chunk: ActionChunk, now_ns: int) -> str | None:
        """Add a chunk; None, or why it was refused."""
        if chunk.actions.ndim != 2 or chunk.actions.shape[1] != self.size:
            return "malformed"
        if not np.isfinite(chunk.actions).all():
            return "not finite"
        if now_ns - chunk.t_obs_ns > 1e9 * self.max_age_s:
            return "too old"
        rows = np.array(chunk.actions, dtype=np.float64)
        self._chunks.append((chunk.t_obs_ns, Trajectory(chunk.t0_ns, chunk.dt_ns, rows)))
        self._chunks.sort(key=lambda entry: entry[0])
        return None

    def rows(self, t0_ns: int, dt_ns: int) -> np.ndarray:
        """What is to be done from `t0_ns` on, as far as a chunk reaches `[T, Da]`."""
        self._chunks = [entry for entry in self._chunks if entry[1].end_ns >= t0_ns]
        last = max((trajectory.end_ns for _, trajectory in self._chunks), default=t0_ns - dt_ns)
        found = [self.sample(t) for t in range(t0_ns, last + 1, dt_ns)]
        values = [playing.value for playing in found if playing is not None]
        return np.stack(values) if values else np.zeros((0, self.size))

    def sample(self, now_ns: int) -> Playing | None:
        """The weighted mean at this time; None if no chunk covers it."""
        live = [t for _, t in self._chunks if t.t0_ns <= now_ns <= t.end_ns]
        if not live:
            return None
        weights = ensemble_weights(len(live), self.m)
        times = np.full(self.size, now_ns)
        parts = [trajectory.at(times) for trajectory in live]
        return Playing(_mean(weights, [p.value for p in parts]), _mean(weights, [p.rate for p in parts]))


def ensemble_weights(count: int, m: float) -> np.ndarray:
    """exp(-m i) for i = 0 (oldest) to count - 1, normalised `[count]`."""
    weights = np.exp(-m * np.arange(count))
    return weights / weights.sum()


def _mean(weights: np.ndarray, rows: Sequence[np.ndarray]) -> np.ndarray:
    mean: np.ndarray = weights @ np.stack(rows)
    return mean
