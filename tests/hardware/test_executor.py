"""What is made of a policy's chunk, without a robot. On one: test_session.py."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from hardware.command_map import CommandMap
from hardware.executor import Executor, ExecutorConfig
from hardware.messages import ActionChunk, Observation
from hardware.observe import Observer
from robopolicy.errors import ConfigError
from tests.hardware.fakes import small_spec
from tests.hardware.test_session import ACTION, SPEC, Straight


class Link:
    """A robot that stands still and keeps the chunks that it is sent."""

    def __init__(self, spec: Any) -> None:
        self.spec, self.sent = spec, []  # type: ignore[var-annotated]

    def observe(self, count: int = 1) -> list[Observation]:
        now, still = time.monotonic_ns(), np.zeros(2)
        return [Observation(seq=1, t_ns=now, q=still, dq=still, tau=still)]

    def submit(self, chunk: ActionChunk) -> None:
        self.sent.append(chunk)


@pytest.mark.parametrize("matching", [True, False])
def test_actions_are_sent_as_much_later_as_they_are_reached_in_training(matching: bool) -> None:
    starts = []
    for lag_s in (0.0, 0.08):
        robot = small_spec(observations={"q": ["joints.position"]}, command_map={"lag_s": lag_s})
        link = Link(robot)
        config = ExecutorConfig(latency_matching=matching, delay_s=0.02)
        observer = Observer(robot, SPEC, matching=matching)
        executor = Executor(Straight(), link, observer, CommandMap(robot, ACTION), config, replan=4)  # type: ignore[arg-type]
        plan = executor.step()
        (chunk,) = link.sent
        assert chunk.t_obs_ns == plan.t_obs_ns
        starts.append(1e-9 * (chunk.t0_ns - chunk.t_obs_ns))
    if matching:
        assert starts == pytest.approx([0.0, 0.08], abs=1e-9)
    else:
        assert starts[0] >= 0.02
        assert starts[1] >= 0.1
    with pytest.raises(ConfigError, match=r"lag_s must be in \[0, 1\)"):
        CommandMap(small_spec(command_map={"lag_s": 2.0}), ACTION)
