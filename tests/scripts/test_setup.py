"""The set-up, as far as it can be tried without installing anything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with the files that the set-up reads, and a script that says which Python runs it."""
    (tmp_path / "scripts").mkdir()
    for name in ("scripts/_setup.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "scripts" / "hello.py").write_text(
        "import _setup\n_setup.ensure()\n"
        "import os, sys\nprint(sys.prefix, os.environ['OMP_NUM_THREADS'], sys.argv[1:])\n"
    )
    return tmp_path


def call(clone: Path, *line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "ROBOPOLICY_NO_VENV")}
    return subprocess.run(
        [sys.executable, *line],
        cwd=clone,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def finished(clone: Path) -> None:
    """Make the clone's .venv look as the set-up leaves it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(clone / ".venv")], check=True)
    code = "import _setup; _setup.STAMP.write_text(_setup.fingerprint())"
    subprocess.run([sys.executable, "-c", code], cwd=clone / "scripts", check=True)


def test_a_finished_environment_is_entered_at_once(clone: Path) -> None:
    finished(clone)
    run = call(clone, "scripts/hello.py", "a b", "--help")
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [str(clone / ".venv"), "1", "['a", "b',", "'--help']"]


def test_nothing_is_installed_for_help_or_when_turned_off(clone: Path) -> None:
    for arguments, environment in ((["--help"], {}), ([], {"ROBOPOLICY_NO_VENV": "1"})):
        run = call(clone, "scripts/hello.py", *arguments, **environment)
        assert run.returncode == 0, run.stderr
        assert run.stdout.startswith(sys.prefix)
        assert not (clone / ".venv").exists()


def test_changed_requirements_and_moved_clones_are_noticed(
    clone: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    finished(clone)
    ready = "import sys; sys.path.insert(0, 'scripts'); import _setup; print(_setup.ready())"
    assert call(clone, "-c", ready).stdout.strip() == "True"
    moved = tmp_path_factory.mktemp("moved") / "clone"
    shutil.copytree(clone, moved, symlinks=True)
    assert call(moved, "-c", ready).stdout.strip() == "False"
    with open(clone / "constraints.txt", "a") as file:
        file.write("something==1\n")
    assert call(clone, "-c", ready).stdout.strip() == "False"


@pytest.mark.slow
def test_a_failed_installation_shows_why_and_is_not_taken_for_a_finished_one(clone: Path) -> None:
    # No package index can be reached, so pip fails at its first requirement.
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull, "PATH": os.defpath}
    for _ in range(2):
        run = call(clone, "scripts/hello.py", **offline)
        assert run.returncode == 1
        assert "No matching distribution" in run.stderr
        assert "install.log" in run.stderr
        assert "run the same command again" in run.stderr
        assert (clone / ".venv" / "robopolicy-setup").read_text() == "unfinished"


def test_a_foreign_directory_is_left_alone(clone: Path) -> None:
    (clone / ".venv").mkdir()
    (clone / ".venv" / "precious").touch()
    run = call(clone, "scripts/hello.py")
    assert run.returncode == 1
    assert "was not made by this script" in run.stderr
    assert (clone / ".venv" / "precious").exists()
