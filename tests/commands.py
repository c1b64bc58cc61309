"""The scripts' commands, called in this process."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
TINY = (
    "policy.pred_horizon=8",
    "policy.action_horizon=4",
    "policy.network.width=32",
    "policy.network.blocks=1",
    "policy.train_steps=20",
    "policy.sampler.steps=4",
    "trainer.batch_size=32",
    "trainer.warmup=2",
)


def run(script: str, *arguments: object) -> None:
    """``python scripts/<script>.py arguments``; raises SystemExit where that would fail."""
    runpy.run_path(str(SCRIPTS / f"{script}.py"))["main"]([str(argument) for argument in arguments])


def failure(capsys: pytest.CaptureFixture[str], script: str, *arguments: object) -> tuple[int, str]:
    """Exit code and last words of a command that fails."""
    with pytest.raises(SystemExit) as stop:
        run(script, *arguments)
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert isinstance(stop.value.code, int)
    return stop.value.code, message[message.index("error: ") :]
