"""What the documentation tells people to type works."""

from __future__ import annotations

import importlib.util
import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from robopolicy import load
from robopolicy.compose import compose, sweep
from robopolicy.data.store import EpisodeStore
from robopolicy.learning.train import TrainConfig, prepare
from robopolicy.registry import parse

ROOT = Path(__file__).parents[2]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_the_worked_example_trains_and_acts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (module,) = blocks("docs/adding_a_policy.md", "python")
    (settings,) = blocks("docs/adding_a_policy.md", "yaml")
    path = tmp_path / "regression_example.py"
    path.write_text(module)
    spec = importlib.util.spec_from_file_location("regression_example", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "regression_example", loaded)
    spec.loader.exec_module(loaded)
    rng = np.random.default_rng(0)
    states = [rng.normal(size=(30, 3)).astype(np.float32) for _ in range(4)]
    episodes = [{"state": state, "action": np.tanh(state[:, :2])} for state in states]
    EpisodeStore.from_arrays(tmp_path / "own.zarr", episodes=episodes, control_hz=10)
    config = compose("train", [f"data={tmp_path}/own.zarr", f"out={tmp_path}/run", "trainer.steps=200"])
    config["policy"] = yaml.safe_load(settings)
    trained = prepare(parse(TrainConfig, config, "train"), progress=False).train()
    seen = {"state": np.stack([states[0][:2]])}
    expected = trained.sample(seen).actions
    assert expected.shape == (1, 1, 16, 2)
    assert np.abs(expected[0, 0, :2] - np.tanh(states[0][:2, :2])).max() < 0.5
    np.testing.assert_array_equal(load(tmp_path / "run").sample(seen).actions, expected)


def test_own_data_in_the_readme_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (lines,) = blocks("README.md", "python")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lines.py").write_text(lines)
    runpy.run_path(str(tmp_path / "lines.py"))
    config = compose("train", ["data=my.zarr", "policy=diffusion", "trainer.steps=3", "trainer.batch_size=8"])
    prepare(parse(TrainConfig, config, "train"), progress=False).train()
    assert load("outputs/my/diffusion").provenance.step == 3


def test_commands_in_the_readme_exist() -> None:
    commands = re.findall(r"^python3? (scripts/\w+\.py)(.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) >= 6
    for script, words in commands:
        assert (ROOT / script).is_file(), script
        root = Path(script).stem
        overrides = [word for word in words.split("#")[0].split() if "=" in word and not word.startswith("-")]
        if (ROOT / "configs" / f"{root}.yaml").exists() and "," not in words:
            compose(root, overrides)


OWN = ("robot=so101", "robot=my_arm")
"""What the reader of a page has made before."""


def commands() -> list[tuple[str, str]]:
    """Every ``python scripts/...`` line of the pages, as (page, line)."""
    found = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        name = str(page.relative_to(ROOT))
        for block in blocks(name, "bash"):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(name, " ".join(line.split())) for line in lines if line.startswith("python scripts/")]
    return [(page, line) for page, line in found if not any(own in line for own in OWN)]


@pytest.mark.parametrize(("page", "line"), commands())
def test_what_people_are_told_to_type_is_understood(page: str, line: str) -> None:
    """Groups, choices and settings of every documented command exist."""
    script, *words = shlex.split(line.removeprefix("python scripts/"), comments=True)
    if (ROOT / "configs" / script.replace(".py", ".yaml")).exists() and "--help" not in words:
        for overrides in sweep([word for word in words if not word.startswith("-")]):
            compose(script.removesuffix(".py"), overrides)
    else:
        assert (ROOT / "scripts" / script).is_file(), page


def test_the_tutorial_by_hand_is_the_pipeline() -> None:
    """Every setting of the shipped stages is in the tutorial's line of the same script, paths aside."""
    stages = compose("pipeline", [])["stages"]
    own = ("out", "checkpoint", "data", "world", "results", "reference", "steer.critic", "episodes", "record")
    by_hand: dict[str, list[set[str]]] = {}
    for page, line in commands():
        if page == "docs/tutorial.md":
            script, *words = shlex.split(line.removeprefix("python scripts/"), comments=True)
            by_hand.setdefault(script, []).append(set(words))
    for line in (line for lines in stages.values() for line in lines):
        script, *words = line.split()
        wanted = {word for word in words if word.lstrip("+").split("=")[0] not in own}
        assert any(wanted <= found for found in by_hand[script]), line
