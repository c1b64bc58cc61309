"""A policy that swings a joint until it goes wrong, in a process of its own.

    python -m hardware.sim.faulty_policy ROBOT_JSON RUN_DIRECTORY FAULT

FAULT is none, nan, slow or disk. It prints the process id of its control process once the robot is armed,
and the time at which it goes wrong, half a second later.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from hardware.link import RobotLink, action_size
from hardware.messages import ActionChunk, Command
from hardware.spec import RobotSpec

if TYPE_CHECKING:
    from hardware.record import EpisodeRecorder

__all__ = ["FAULTS", "act", "main"]

FAULTS = ("none", "nan", "slow", "disk")
_HORIZON, _DT_NS = 60, 20_000_000
_SWING = 0.1
_FOR_EVER_S = 3600.0


def act(link: RobotLink, fault: str, directory: Path) -> None:
    """Send chunks, and go wrong."""
    recorder = _recorder(link, directory / "episodes.zarr") if fault == "disk" else None
    begun = time.monotonic()
    seen = link.observe()[-1]
    opening = [] if link.spec.gripper is None else [seen.gripper or 0.0]
    rest = np.concatenate([seen.q, opening])
    assert len(rest) == action_size(link.spec)
    while True:
        now = link.observe()[-1].t_ns
        rows = np.tile(rest, (_HORIZON, 1))
        rows[:, 0] += _SWING * np.sin(3e-9 * (now + _DT_NS * np.arange(_HORIZON)))
        wrong = fault if time.monotonic() - begun > 0.5 else "none"
        if wrong == "nan":
            rows[3, 0] = np.nan
        if wrong == "disk" and recorder is not None:
            recorder.commit(seed=0, success=True)
        if wrong != "none":
            _now()
            fault = "none"
        if wrong == "slow":
            time.sleep(_FOR_EVER_S)
        link.submit(ActionChunk(t_obs_ns=now, t0_ns=now, dt_ns=_DT_NS, actions=rows))
        time.sleep(0.05)


def _recorder(link: RobotLink, path: Path) -> EpisodeRecorder:
    """With a step of an episode, on a disk that is full from now on."""
    from hardware.record import EpisodeRecorder
    from robopolicy.data import store
    from robopolicy.spec import ActionSpec, ObservationSpec, Spec

    spec = Spec(
        observations={"x": ObservationSpec(shape=(1,))},
        action=ActionSpec(names=("x",), low=(-1.0,), high=(1.0,)),
        control_hz=20.0,
    )
    recorder = EpisodeRecorder(path, spec, link.spec)
    tick = link.ticks()[-1]
    sent = Command(t_ns=int(tick["t_ns"]), valid_until_ns=0, q=tick["q"])
    recorder.step({"x": np.zeros(1, np.float32)}, np.zeros(1), sent, link.observe()[-1])

    def full(*arguments: object) -> NoReturn:
        _now()
        raise OSError(28, "No space left on device")

    store.put = full  # type: ignore[assignment]
    return recorder


def _now() -> None:
    print(time.monotonic_ns(), flush=True)


def main() -> None:
    """Act until something ends it."""
    spec = RobotSpec.from_dict(json.loads(sys.argv[1]))
    with RobotLink(spec, Path(sys.argv[2])) as link:
        link.arm()
        print(link.pid, flush=True)
        act(link, sys.argv[3], Path(sys.argv[2]))


if __name__ == "__main__":
    main()
