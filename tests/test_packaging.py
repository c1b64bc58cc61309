"""A wheel works away from the clone: its packages, its configurations, and its plugin entry point."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

CODE = """
import sys
from importlib.metadata import entry_points, version
from pathlib import Path
import robopolicy
from robopolicy.compose import compose, config_directory
place = Path(sys.argv[1]).resolve()
assert place in Path(robopolicy.__file__).resolve().parents, robopolicy.__file__
assert place in config_directory().parents, config_directory()
assert (Path(robopolicy.__file__).parent / "py.typed").exists()
assert version("robopolicy") == robopolicy.__version__
assert compose("train", ["network=unet_small"])["policy"]["network"]["name"] == "unet1d"
plugins = [e for e in entry_points(group="robopolicy.plugins") if e.name == "envs"]
envs = plugins[0].load()
assert place in Path(envs.__file__).resolve().parents, envs.__file__
"""


def pip(*arguments: str) -> None:
    line = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *arguments]
    run = subprocess.run(line, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.slow
def test_a_wheel_works_from_another_directory(tmp_path: Path) -> None:
    # The build backend is among the development packages, so nothing is downloaded.
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT))
    (wheel,) = tmp_path.glob("robopolicy-*.whl")
    place = tmp_path / "site"
    pip("install", "--no-deps", "--target", str(place), str(wheel))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(place)}
    run = subprocess.run(
        [sys.executable, "-c", CODE, str(place)],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
