"""Imports go one way (scripts -> hardware -> envs -> robopolicy), and the light modules stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WITHOUT_TORCH = (
    "hardware.link",
    "hardware.runtime",
    "robopolicy",
    "robopolicy.cli",
    "robopolicy.data.store",
    "robopolicy.env",
    "robopolicy.errors",
    "robopolicy.registry",
    "robopolicy.seeding",
    "robopolicy.serving.client",
    "robopolicy.serving.generalist",
    "robopolicy.serving.server",
    "robopolicy.spec",
    "robopolicy.task",
)


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports anywhere, as (top-level name, line)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.partition(".")[0], node.lineno
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0], node.lineno


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("robopolicy", {"envs", "hardware", "scripts", "tests"}),
        ("envs", {"hardware", "scripts", "tests"}),
        ("hardware", {"scripts", "tests"}),
    ],
)
def test_imports_follow_the_arrows(folder: str, forbidden: set[str]) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files or folder == "hardware"
    against = [
        f"{p.relative_to(ROOT)}:{line} {name}"
        for p in files
        for name, line in imported(p)
        if name in forbidden
    ]
    assert not against, against


def test_hardware_needs_neither_environments_nor_torch() -> None:
    hardware = ROOT / "hardware"
    files = [path for path in hardware.rglob("*.py") if hardware / "sim" not in path.parents]
    against = [
        f"{p.relative_to(ROOT)}:{line} {name}"
        for p in files
        for name, line in imported(p)
        if name in {"envs", "torch"}
    ]
    assert not against, against


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_module_imports_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr or f"{module} imports torch"
