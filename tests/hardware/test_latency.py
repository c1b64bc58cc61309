from __future__ import annotations

import numpy as np
import pytest

from hardware.chunks import ChunkPlayer, PlayerConfig
from hardware.latency import Device, History, measure_latency, observation_times
from hardware.messages import ActionChunk
from robopolicy.errors import ConfigError, DataError

MS = 1_000_000
AMPLITUDE, OMEGA = 0.3, 1.55


def target(t_s: np.ndarray | float) -> np.ndarray:
    """Where the thing that is to be followed is: 0.3 m to either side."""
    return AMPLITUDE * np.sin(OMEGA * np.asarray(t_s))


def mean_error(camera_s: float, inference_s: float, actuator_s: float, *, matched: bool) -> float:
    """Mean tracking error of a perfect predictor behind three latencies, on a fake clock at 1 kHz."""
    dt_ns, horizon = 50 * MS, 32
    lead = (actuator_s,) if matched else (0.0,)
    player = ChunkPlayer(PlayerConfig(blend_s=0.05, margin_s=0.0, lead_s=lead, max_age_s=2.0), 1)
    camera = History(Device(name="camera", latency_s=camera_s if matched else 0.0))
    sent: list[float] = []
    pending: list[tuple[int, ActionChunk]] = []
    errors = []
    for t in range(8000):
        now = t * MS
        if t % 10 == 0:  # a frame taken camera_s ago arrives
            camera.add(now, np.array([t * 1e-3 - camera_s]))
        if t % 300 == 0:
            newest = camera.newest_ns
            assert newest is not None
            truly = float(camera.at(np.array([newest]))[0, 0])
            rows = target(truly + 1e-9 * dt_ns * np.arange(horizon))[:, None]
            start = newest if matched else now + round(1e9 * inference_s)
            ready = now + round(1e9 * inference_s)
            pending.append((ready, ActionChunk(t_obs_ns=newest, t0_ns=start, dt_ns=dt_ns, actions=rows)))
        while pending and pending[0][0] <= now:
            player.submit(pending.pop(0)[1], now)
        playing = player.sample(now)
        sent.append(float(playing.value[0]) if playing else (sent[-1] if sent else 0.0))
        delay = round(1e3 * actuator_s)
        if t > 2000:
            errors.append(abs(sent[t - delay] - float(target(t * 1e-3))))
    return float(np.mean(errors))


@pytest.mark.parametrize(("latencies", "naive_mm"), [((0.12, 0.10, 0.05), 60), ((0.17, 0.10, 0.10), 80)])
def test_latency_matching_follows_and_the_naive_way_does_not(
    latencies: tuple[float, float, float], naive_mm: float
) -> None:
    matched = 1e3 * mean_error(*latencies, matched=True)
    naive = 1e3 * mean_error(*latencies, matched=False)
    print(f"latencies {latencies} s: matched {matched:.2f} mm, naive {naive:.1f} mm")
    assert matched < 1.0
    assert naive > naive_mm


@pytest.mark.parametrize("delay", [0.02, 0.1, 0.17])
def test_estimator_finds_the_delay(delay: float) -> None:
    rng = np.random.default_rng(0)
    t_sent = np.arange(0, 6, 0.008)
    t_seen = np.sort(rng.uniform(0, 6, 700))

    def signal(t: np.ndarray) -> np.ndarray:
        return np.sin(2.1 * t) + 0.5 * np.sin(5.3 * t + 1)

    seen = signal(t_seen - delay) + 0.01 * rng.standard_normal(len(t_seen))
    found = measure_latency(
        (t_sent * 1e9).astype(np.int64), signal(t_sent), (t_seen * 1e9).astype(np.int64), seen, longest_s=0.5
    )
    assert found == pytest.approx(delay, abs=3e-3)


def test_history_interpolates_states_and_takes_nearest_images() -> None:
    history = History(Device(name="arm", latency_s=0.01))
    for t in range(0, 100, 10):
        history.add((t + 10) * MS, np.array([float(t), 2.0 * t]))
    history.add(5 * MS, np.array([99.0, 99.0]))  # out of order
    np.testing.assert_allclose(history.at(np.array([25, 30]) * MS), [[25, 50], [30, 60]])
    np.testing.assert_allclose(history.at(np.array([-5, 500]) * MS), [[0, 0], [90, 180]])
    assert [image[0] for image in history.nearest(np.array([24, 26]) * MS)] == [20, 30]


def test_observation_times_end_where_every_stream_has_data() -> None:
    camera, arm = History(Device(name="camera", latency_s=0.12)), History(Device(name="arm", latency_s=0.0))
    with pytest.raises(DataError, match="camera"):
        observation_times([camera, arm], 2, 50 * MS)
    camera.add(1000 * MS, np.zeros(1))
    arm.add(1000 * MS, np.zeros(1))
    np.testing.assert_array_equal(observation_times([camera, arm], 2, 50 * MS), [830 * MS, 880 * MS])


def test_errors() -> None:
    with pytest.raises(ConfigError, match="device camera"):
        Device(name="camera", latency_s=-0.1)
    t = np.arange(5000) * MS
    with pytest.raises(DataError, match="does not move"):
        measure_latency(t, np.zeros(5000), t, np.sin(1e-9 * t))
    with pytest.raises(DataError, match="overlap"):
        measure_latency(t[:100], np.sin(1e-9 * t[:100]), t, np.sin(1e-9 * t))
    with pytest.raises(DataError, match="Nothing was received from arm"):
        History(Device(name="arm", latency_s=0.0)).at(np.zeros(1))
