from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from hardware.actuator_latency import actuator_latency, main
from hardware.messages import Command, Observation
from hardware.record import EpisodeRecorder
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import DataError
from tests.hardware.fakes import small_spec
from tests.hardware.test_record import SPEC

AGE_S = 0.004


def recorded(path: Path, *, behind: float, steps: int) -> EpisodeStore:
    """Joint 0 follows a curve late, joint 1 stands still."""
    recorder = EpisodeRecorder(path, SPEC, small_spec())
    for index in range(steps):
        t = index / SPEC.control_hz
        at = t - AGE_S - behind
        sent = Command(
            t_ns=round(1e9 * t), valid_until_ns=0, q=np.array([np.sin(3 * t) + 0.4 * np.sin(7 * t), 0])
        )
        q = np.array([np.sin(3 * at) + 0.4 * np.sin(7 * at), 0.0])
        seen = Observation(seq=index, t_ns=round(1e9 * (t - AGE_S)), q=q, dq=0 * q, tau=0 * q)
        recorder.step({"joints": q.astype(np.float32)}, q, sent, seen)
    recorder.commit()
    return EpisodeStore.open(path)


@pytest.mark.parametrize("behind", [0.0, 0.04, 0.13])
def test_a_known_latency_is_found(tmp_path: Path, behind: float) -> None:
    late, still = actuator_latency(recorded(tmp_path / "a.zarr", behind=behind, steps=100)).values()
    assert late == [pytest.approx(behind, abs=0.004)]
    assert still == []


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(tmp_path / "a.zarr", behind=0.04, steps=100)
    monkeypatch.setattr(sys, "argv", ["actuator_latency", str(tmp_path / "a.zarr")])
    main()
    first, second = capsys.readouterr().out.splitlines()
    assert "40." in first or "39." in first
    assert "hardly moves" in second
    monkeypatch.setattr(sys, "argv", ["actuator_latency", str(tmp_path / "b.zarr")])
    with pytest.raises(SystemExit, match=r"b\.zarr"):
        main()


def test_what_tells_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of its 1 episodes .* 1\.5 s"):
        actuator_latency(recorded(tmp_path / "a.zarr", behind=0.0, steps=20))
    other = EpisodeStore.create(tmp_path / "b.zarr", SPEC)
    with pytest.raises(DataError, match="not a recording of a robot"):
        actuator_latency(other)
