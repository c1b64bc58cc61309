from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robopolicy import load
from robopolicy.errors import ConfigError
from robopolicy.serving.__main__ import main
from robopolicy.serving.client import PolicyClient
from robopolicy.serving.generalist import ServedGeneralist
from tests.serving.octo import KEYS, SPEC, STATISTICS, FakeOcto, make, observation

ROOT = Path(__file__).parents[2]


def test_actions_are_in_the_robots_units_and_rows_have_their_own_seeds() -> None:
    served = make()
    made = served.sample(observation(3), 2, None, [5, None, None]).arrays["actions"]
    assert made.shape == (3, 2, 5, 3)
    assert [call[0] for call in served.model.calls] == [4, 2]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(made[:, :, 0], made[:, :, 1])
    for dimension, allowed in enumerate(([0.9, 1.0, 1.1], [1.8, 2.0, 2.2], [-1, 0, 1])):
        assert np.isin(made[..., dimension].round(4), np.float32(allowed).round(4)).all()
    alone = {key: value[:1] for key, value in observation(3).items()}
    np.testing.assert_array_equal(served.sample(alone, 2, None, [5]).arrays["actions"][0], made[0])
    again = served.sample(observation(3), 2, None, [5, None, None]).arrays["actions"]
    assert (again[1:] != made[1:]).any()


def test_it_runs_in_a_process_of_its_own_and_is_a_policy_here() -> None:
    line = [sys.executable, "-m", "robopolicy.serving", "tests.serving.octo:make", "--port", "0"]
    process = subprocess.Popen(
        line, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        (address,) = re.findall(r"ws://\S+", said)
        policy = load(address)
        assert (policy.obs_horizon, policy.pred_horizon, policy.action_horizon) == (2, 5, 2)
        assert policy.spec == SPEC
        sample = policy.sample(observation(3), n=2)
        assert sample.actions.shape == (3, 2, 5, 3)
        with PolicyClient(address) as client:
            found = client.sample(observation(3), n=2, seeds=[5, 6, 7]).actions
        np.testing.assert_array_equal(
            found, make().sample(observation(3), 2, None, [5, 6, 7]).arrays["actions"]
        )
    finally:
        process.terminate()
        process.wait()


def test_what_does_not_fit_is_refused() -> None:
    def build(**changes: Any) -> ServedGeneralist:
        settings = {"spec": SPEC, "keys": KEYS, "statistics": STATISTICS, "rng": int, **changes}
        return ServedGeneralist(FakeOcto(), **settings)

    with pytest.raises(ConfigError, match="name of 'proprio'"):
        build(keys={"image": "image_primary"})
    with pytest.raises(ConfigError, match="Unknown observation 'pro'"):
        build(keys={**KEYS, "pro": "x"})
    with pytest.raises(ConfigError, match="one text"):
        build(spec=SPEC.select(["image", "proprio"]))
    with pytest.raises(ConfigError, match="the action 3"):
        build(statistics={"mean": [0.0], "std": [1.0]})
    with pytest.raises(ConfigError, match=r"returned \[1, 4, 3\], expected \[1, 8, 3\]"):
        build(horizon=8).sample(observation(1), 1, None, [0])


@pytest.mark.parametrize(
    "factory, reason",
    [
        ("tests.serving.octo:nothing", "has no attribute 'nothing'"),
        ("tests.serving.nothing:make", "No module named"),
        ("tests.serving.octo:FakeOcto", "made a FakeOcto, not a Served"),
    ],
)
def test_the_entry_point_says_what_is_wrong(factory: str, reason: str) -> None:
    with pytest.raises(SystemExit, match=f"error: {factory}.*{reason}"):
        main([factory, "--port", "0"])
