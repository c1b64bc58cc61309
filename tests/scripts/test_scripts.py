"""What every script has in common, and the doctor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path.name for path in (ROOT / "scripts").glob("[!_]*.py"))


def call(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {"ROBOPOLICY_NO_VENV": "1", **environment}
    line = [sys.executable, f"scripts/{script}", *arguments]
    return subprocess.run(
        line, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_what_it_is_for(script: str) -> None:
    run = call(script, "--help")
    assert run.returncode == 0, run.stderr
    assert "Usage" in run.stdout or "usage" in run.stdout
    assert len(run.stdout.splitlines()) > 5


@pytest.mark.sim
def test_the_doctor_finds_this_machine_fit() -> None:
    run = call("doctor.py")
    assert run.returncode == 0, run.stdout + run.stderr
    for what in ("Python", "torch", "mujoco", "rendering", "ffmpeg", "outputs"):
        assert what in run.stdout
    assert "\033" not in run.stdout


@pytest.mark.slow
@pytest.mark.sim
def test_the_doctor_names_the_remedy_for_a_broken_backend() -> None:
    run = call("doctor.py", MUJOCO_GL="nonsense")
    assert "nonsense" in run.stdout
    assert "To mend it" in run.stdout


def test_the_doctor_without_packages_says_what_to_install() -> None:
    code = (
        "import runpy, sys; sys.path.insert(0, 'scripts'); sys.argv = ['doctor.py'];"
        "runpy.run_path('scripts/doctor.py', run_name='__main__')"
    )
    line = [sys.executable, "-I", "-S", "-c", code]
    environment = {**os.environ, "ROBOPOLICY_NO_VENV": "1"}
    run = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stderr
    assert "not installed: torch" in run.stdout
    assert "quickstart.py" in run.stdout
