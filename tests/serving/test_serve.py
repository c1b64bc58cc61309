from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robopolicy.compose import compose
from robopolicy.errors import ConfigError
from robopolicy.evaluation.evaluate import Evaluation
from robopolicy.learning.checkpoint import save_checkpoint
from robopolicy.policies.policy import Provenance, blank_observation
from robopolicy.serving import serve
from robopolicy.serving.client import PolicyClient
from robopolicy.serving.serve import ServeConfig
from robopolicy.serving.served import Served
from robopolicy.serving.server import running
from robopolicy.steering.steer import load_acting
from robopolicy.steering.value_guided import ValueGuided
from tests.commands import SCRIPTS, failure, run
from tests.policies.test_remote import DIFFUSION
from tests.policies.toys import generators, make
from tests.steering.value_toys import critic
from tests.toy_env import toy_spec, toy_task


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """``python scripts/serve.py arguments``: what it says first, and the process."""
    line = [sys.executable, str(SCRIPTS / "serve.py"), *arguments]
    environment = {**os.environ, "ROBOPOLICY_NO_VENV": "1"}
    process = subprocess.Popen(
        line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline(), process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    policy = make("diffusion", spec=toy_spec(), **DIFFUSION)
    policy.provenance = Provenance(task=toy_task(), used_seeds=(1, 2), step=5)
    save_checkpoint(tmp_path / "policy", policy)
    return tmp_path / "policy"


@pytest.mark.slow
def test_a_served_checkpoint_is_evaluated_by_its_address(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: tuple[Any, ...] = ("episodes=6", "lanes=3", "workers=0", "video=0")
    run("evaluate", f"checkpoint={checkpoint}", f"out={tmp_path}/local", *settings)
    with serving(f"checkpoint={checkpoint}", "server.port=0", "device=cpu") as (said, process):
        (address,) = re.findall(r"ws://127.0.0.1:\d+", said)
        assert "takes batch, n, noise, seed" in said
        monkeypatch.chdir(tmp_path)
        run("evaluate", f"checkpoint={address}", *settings)
        process.send_signal(signal.SIGTERM)  # as Ctrl-C, and not ignored where tests run in the background
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert errors == "\nInterrupted.\n"
    where = tmp_path / "outputs" / "toy" / address.removeprefix("ws://").replace(":", "_") / "evaluation"
    assert Evaluation.load(where).rows == Evaluation.load(tmp_path / "local").rows
    assert (where / "report.html").exists()


def test_a_steered_policy_is_served_as_it_acts_here(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path / "critic", critic(action_horizon=4, obs_horizon=2))
    found: list[Served] = []
    monkeypatch.setattr(serve, "serve_forever", lambda served, config, name: found.append(served))
    words = (f"checkpoint={checkpoint}", "steer=value", f"steer.critic={tmp_path}/critic", "device=cpu")
    run("serve", *words)
    steer = compose("serve", list(words))["steer"]
    here = load_acting(str(checkpoint), steer=steer)
    assert isinstance(here, ValueGuided)
    seen = blank_observation(here, 4)
    mine = here.sample(seen, n=2, generator=generators(1, 2, 3, 4))
    with running(found[0]) as address, PolicyClient(address) as client:
        theirs = client.sample(seen, n=2, seeds=(1, 2, 3, 4))
    np.testing.assert_array_equal(theirs.actions, mine.actions)


def test_what_cannot_be_served_is_refused(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, message = failure(capsys, "serve", f"checkpoint={checkpoint}", "server.host=0.0.0.0")
    assert code == 1
    assert "ROBOPOLICY_TOKEN" in message
    code, message = failure(capsys, "serve", f"checkpoint={checkpoint}/nowhere")
    assert code == 1
    assert "No such checkpoint" in message
    code, message = failure(capsys, "serve", f"checkpoint={checkpoint}", "server.prt=1")
    assert code == 2
    assert "port" in message
    with pytest.raises(ConfigError, match="max_chunks"):
        ServeConfig(checkpoint="x", max_chunks=0)
