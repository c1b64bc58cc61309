"""Every task that ships can be made, keeps the contract, and leaves room for its expert."""

from __future__ import annotations

from pathlib import Path

import pytest

from envs.check import assert_ok
from robopolicy.compose import compose
from robopolicy.env import make_env
from robopolicy.errors import MissingCapability
from robopolicy.task import Task

pytestmark = pytest.mark.sim
UNSCRIPTED = ("door", "stack", "two_arm_lift")
FILES = sorted((Path(__file__).parents[2] / "configs" / "task").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_task(path: Path) -> None:
    task = Task.from_dict(compose("evaluate", [f"task={path.stem}"])["task"])
    assert task.name == path.stem
    assert task.instruction
    if task.env["name"] == "metaworld":
        pytest.importorskip("metaworld")
    env = make_env(task)
    assert_ok(env, steps=5)
    env.reset(seed=0)
    try:
        env.expert(0, task.expert)
    except MissingCapability:
        assert task.env["name"] == "gymnasium" or task.name in UNSCRIPTED
    env.close()
