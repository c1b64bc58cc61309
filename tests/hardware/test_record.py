from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hardware.messages import Command, Observation
from hardware.record import REASONS, EpisodeRecorder, reason_bits, reason_names
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError
from robopolicy.spec import ActionSpec, ObservationSpec, Spec
from tests.hardware.fakes import small_spec

SPEC = Spec(
    observations={"joints": ObservationSpec(shape=(2,))},
    action=ActionSpec(names=("x", "y"), low=(-1.0, -1.0), high=(1.0, 1.0)),
    control_hz=20.0,
)


def add_steps(recorder: EpisodeRecorder, count: int) -> None:
    for index in range(count):
        measured = Observation(
            seq=index, t_ns=index * 10**7, q=np.full(2, 0.1 * index), dq=np.ones(2), tau=np.zeros(2)
        )
        sent = Command(
            t_ns=index * 10**7 + 2_000_000,
            valid_until_ns=0,
            q=np.full(2, 0.2 * index),
            reasons=("velocity", "collision") if index == 1 else (),
        )
        recorder.step(
            {"joints": measured.q.astype(np.float32), "unused": np.zeros(9)},
            np.full(2, index),
            sent,
            measured,
            chunk_age_s=0.1,
            takeover=index == 2,
        )


def test_what_happened_is_in_the_store(tmp_path: Path) -> None:
    recorder = EpisodeRecorder(tmp_path / "robot.zarr", SPEC, small_spec())
    add_steps(recorder, 4)
    recorder.commit(seed=3, success=True, instruction="wave")
    add_steps(recorder, 2)
    recorder.discard()
    assert len(recorder) == 0
    store = EpisodeStore.open(tmp_path / "robot.zarr")
    assert len(store) == 1
    episode = store.episode(0)
    np.testing.assert_allclose(episode["sent"][:, :2], 0.2 * np.arange(4)[:, None] * np.ones(2))
    np.testing.assert_allclose(episode["action"][:, 0], np.arange(4))
    np.testing.assert_allclose(episode["latency"], np.tile([0.002, 0.1, 0.0], (4, 1)))
    assert [reason_names(int(bits)) for bits in episode["reasons"]] == [(), ("velocity", "collision"), (), ()]
    assert episode["takeover"].tolist() == [0, 0, 1, 0]
    assert store.instructions == ["wave"]
    assert store.origin["reasons"] == list(REASONS)
    assert store.origin["robot"]["name"] == "small"


def test_reasons_are_bits_and_unknown_ones_are_refused() -> None:
    for index in range(len(REASONS)):
        assert reason_names(reason_bits(REASONS[index:])) == REASONS[index:]
    with pytest.raises(DataError, match="Unknown reason 'colision'"):
        reason_bits(["colision"])


def test_an_empty_episode_and_a_full_disk_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = EpisodeRecorder(tmp_path / "robot.zarr", SPEC, small_spec())
    with pytest.raises(DataError, match="nothing to commit"):
        recorder.commit()
    add_steps(recorder, 3)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("robopolicy.data.store.put", full)
        with pytest.raises(DataError, match="No space left"):
            recorder.commit()
    assert len(recorder) == 3
    recorder.commit()
    assert len(EpisodeStore.open(tmp_path / "robot.zarr")) == 1
