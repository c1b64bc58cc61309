"""The executor on a fake clock, with the known failures of others as cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.chunks import ChunkPlayer, PlayerConfig, TemporalEnsemble, Trajectory, ensemble_weights
from hardware.latency import LatencyEstimator
from hardware.messages import ActionChunk
from robopolicy.errors import ConfigError

MS = 1_000_000
DT = 33 * MS


def chunk(t_obs_ms: float, values: np.ndarray, dt_ns: int = DT) -> ActionChunk:
    """A chunk whose first action is for the time of its observation."""
    start = round(t_obs_ms * MS)
    rows = np.asarray(values, dtype=float)
    rows = rows[:, None] if rows.ndim == 1 else rows
    return ActionChunk(t_obs_ns=start, t0_ns=start, dt_ns=dt_ns, actions=rows)


def play(player: ChunkPlayer, start_ms: int, stop_ms: int, step_ms: int = 2) -> list[float | None]:
    values = []
    for t in range(start_ms, stop_ms, step_ms):
        playing = player.sample(t * MS)
        values.append(None if playing is None else float(playing.value[0]))
    return values


def test_rows_are_hit_at_their_times_and_a_line_stays_a_line() -> None:
    curve = Trajectory(0, DT, np.linspace(0.0, 3.0, 7)[:, None])
    for t in np.linspace(0, 6 * DT, 50):
        playing = curve.at(np.array([t]))
        assert playing.value[0] == pytest.approx(0.5 * t / DT)
    assert curve.at(np.array([2.5 * DT])).rate[0] == pytest.approx(0.5e9 / DT)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=12))
def test_rates_are_the_derivatives_of_values(rows: list[float]) -> None:
    curve = Trajectory(0, DT, np.array(rows)[:, None])
    for t in np.linspace(0.02, len(rows) - 1.02, 25) * DT:
        if t <= 0 or abs(t / DT - round(t / DT)) < 1e-3:
            continue
        h = 1e-4 * DT
        slope = (curve.at(np.array([t + h])).value - curve.at(np.array([t - h])).value)[0] / (2e-9 * h)
        assert curve.at(np.array([t])).rate[0] == pytest.approx(slope, abs=1e-3)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_value_and_rate_are_continuous_whatever_arrives_when(data: st.DataObject) -> None:
    config = PlayerConfig(blend_s=0.1, margin_s=0.01, max_age_s=1.0)
    player = ChunkPlayer(config, 1)
    player.submit(chunk(0, np.zeros(40)), 0)
    arrivals = set(data.draw(st.lists(st.integers(2, 900), max_size=12)))
    last = None
    for t in range(1000):
        if t in arrivals:
            age = data.draw(st.integers(0, 200))
            rows = data.draw(st.lists(st.floats(-1, 1), min_size=40, max_size=40))
            player.submit(chunk(t - age, np.array(rows)), t * MS)
        playing = player.sample(t * MS)
        assert playing is not None
        if last is not None:
            # A millisecond at the largest rate there can be: rows 2 apart in 33 ms, faded in over 100 ms.
            assert abs(playing.value[0] - last.value[0]) < 0.3
            step = 0.5e-3 * (playing.rate[0] + last.rate[0])
            assert abs(playing.value[0] - last.value[0] - step) < 0.02
        last = playing


def test_late_chunk_is_entered_at_the_present_time() -> None:
    player = ChunkPlayer(PlayerConfig(blend_s=0.05, margin_s=0.0), 1)
    ramp = np.arange(60.0)
    player.submit(chunk(0, ramp), 0)
    play(player, 0, 500)
    assert player.submit(chunk(330, ramp[10:]), 500 * MS) is None  # the same motion, 170 ms late
    values = play(player, 500, 900)
    expected = np.arange(500, 900, 2) / 33.0
    np.testing.assert_allclose(np.array(values, dtype=float), expected, atol=1e-9)
    assert player.overlap_error < 1e-9
    assert player.age_s == pytest.approx(0.17)


def test_first_chunk_after_a_slow_first_inference_starts_at_its_beginning() -> None:
    """lerobot#4223: 21 of 30 actions were skipped from standstill because warm-up took 0.7 s."""
    player = ChunkPlayer(PlayerConfig(max_age_s=1.0), 1)
    assert player.sample(700 * MS) is None
    player.submit(chunk(0, np.linspace(0.0, 1.0, 31)), 700 * MS, standing=np.zeros(1))
    values = play(player, 700, 1700)
    assert values[0] == pytest.approx(0.0)
    assert max(np.abs(np.diff(np.array(values, dtype=float)))) < 2.5 * 0.002 / 0.99
    assert values[-1] == pytest.approx(0.99 / 0.99, abs=0.02)


def test_chunk_after_starvation_continues_where_the_motion_stopped() -> None:
    """lerobot#4454: the queue was spliced ahead of the pose whenever it had starved during inference."""
    player = ChunkPlayer(PlayerConfig(max_age_s=2.0, margin_s=0.0), 1)
    ramp = 0.01 * np.arange(100.0)
    player.submit(chunk(0, ramp[:11]), 0)  # until 330 ms, value 0.1
    values = play(player, 0, 600)
    assert values[-1] is None
    assert player.starved == 1
    # Observed while still moving at 165 ms (value 0.05); stood still since about 332 ms.
    player.submit(chunk(165, ramp[5:]), 600 * MS, standing=np.array([0.1]))
    resumed = play(player, 600, 1000)
    assert resumed[0] == pytest.approx(0.1, abs=1e-3)
    assert np.abs(np.diff(np.array(resumed, dtype=float))).max() < 2.5 * 0.01 * 2 / 33
    # Observed while standing: from its first action.
    player = ChunkPlayer(PlayerConfig(max_age_s=2.0), 1)
    player.submit(chunk(0, ramp[:11]), 0)
    play(player, 0, 600)
    player.submit(chunk(500, ramp[10:]), 900 * MS, standing=np.array([0.1]))
    playing = player.sample(902 * MS)
    assert playing is not None
    assert playing.value[0] == pytest.approx(0.1, abs=1e-3)


def test_steady_state_neither_skips_nor_repeats_an_action() -> None:
    """lerobot#4223: one extra action was skipped at every splice."""
    player = ChunkPlayer(PlayerConfig(blend_s=0.0, margin_s=0.0), 1)
    values: list[float | None] = []
    for cycle in range(10):
        observed = cycle * 330
        late = 150 if cycle else 0  # the robot follows from the beginning
        player.submit(chunk(observed, np.arange(30.0) + 10 * cycle), (observed + late) * MS)
        values += play(player, len(values) * 33, observed + 480, 33)
    steps = np.diff(np.array(values[1:], dtype=float))
    np.testing.assert_allclose(steps, 1.0, atol=1e-9)


def test_warm_up_and_old_spikes_leave_the_estimate() -> None:
    """lerobot#4223, #2541: a running maximum kept the first inference for ever."""
    estimator = LatencyEstimator(window=20)
    estimator.add(7.0)
    assert estimator.seconds == 0.0
    for _ in range(5):
        estimator.add(0.3)
    estimator.add(2.0)
    assert estimator.seconds > 0.3
    for _ in range(20):
        estimator.add(0.3)
    assert estimator.seconds == pytest.approx(0.3)
    assert estimator.steps(0.033, consumed=100) == 10
    assert estimator.steps(0.033, consumed=4) == 4


def test_what_is_refused() -> None:
    player = ChunkPlayer(PlayerConfig(max_age_s=0.5), 1)
    now = 1000
    player.submit(chunk(now, np.zeros(30)), now * MS)
    wrong = chunk(now, np.zeros(30))
    wrong.actions = np.zeros((3, 2))
    broken = np.zeros(30)
    broken[7] = np.inf
    assert player.submit(wrong, now * MS) == "malformed"
    assert player.submit(chunk(now, broken), now * MS) == "not finite"
    assert player.submit(chunk(now - 1, np.zeros(30)), now * MS) == "older"
    assert player.submit(chunk(now + 10, np.zeros(30)), (now + 600) * MS) == "too old"
    assert player.submit(chunk(now + 10, np.zeros(2)), (now + 100) * MS) == "over"
    assert player.refused == {"malformed": 1, "not finite": 1, "older": 1, "too old": 1, "over": 1}
    with pytest.raises(ConfigError, match="lead_s has 3 numbers for 2"):
        ChunkPlayer(PlayerConfig(lead_s=(0.0, 0.1, 0.2)), 2)
    with pytest.raises(ConfigError, match="blend_s"):
        PlayerConfig(blend_s=-1.0)


def test_each_column_is_sent_early_by_its_own_latency() -> None:
    player = ChunkPlayer(PlayerConfig(lead_s=(0.1, 0.0)), 2)
    rows = np.repeat(np.arange(60.0)[:, None], 2, axis=1)
    player.submit(chunk(0, rows), 0, standing=np.zeros(2))
    player.submit(chunk(330, rows[10:]), 330 * MS)
    player.sample(330 * MS)
    playing = player.sample(660 * MS)
    assert playing is not None
    assert playing.value[0] - playing.value[1] == pytest.approx(100 / 33)


def test_remainder_is_what_would_be_played() -> None:
    player = ChunkPlayer(PlayerConfig(blend_s=0.0, margin_s=0.0), 1)
    assert player.remainder(0, DT).shape == (0, 1)
    player.submit(chunk(0, np.arange(10.0)), 0)
    player.sample(20 * MS)
    left = player.remainder(100 * MS, DT)[:, 0]
    assert len(left) == 6
    np.testing.assert_allclose(np.diff(left), 1.0, atol=1e-9)


def test_a_stop_forgets_the_plan() -> None:
    player = ChunkPlayer(PlayerConfig(), 1)
    player.submit(chunk(0, np.arange(30.0)), 0)
    assert player.sample(20 * MS) is not None
    player.stand(30 * MS)
    assert player.sample(40 * MS) is None


def test_ensemble_weights_the_oldest_most_as_act_does() -> None:
    np.testing.assert_allclose(
        ensemble_weights(3, 0.1), np.exp([0.0, -0.1, -0.2]) / np.exp([0.0, -0.1, -0.2]).sum()
    )
    ensemble = TemporalEnsemble(1, m=0.1)
    for start, value in ((0, 1.0), (33, 2.0), (66, 3.0)):
        assert ensemble.submit(chunk(start, np.full(10, value)), start * MS) is None
    playing = ensemble.sample(100 * MS)
    assert playing is not None
    assert playing.value[0] == pytest.approx(float(ensemble_weights(3, 0.1) @ [1.0, 2.0, 3.0]))
    assert ensemble.submit(chunk(0, np.full(10, np.nan)), 100 * MS) == "not finite"
    assert ensemble.submit(chunk(0, np.zeros(10)), 900 * MS) == "too old"
    assert ensemble.sample(2000 * MS) is None
