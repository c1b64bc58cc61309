"""What the documentation tells people to type works."""

from __future__ import annotations

import importlib.util
import re
import runpy
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from robopolicy import load
from robopolicy.codecs import Codec, CodecConfig
from robopolicy.compose import compose, sweep
from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import Batch
from robopolicy.learning.train import TrainConfig, prepare
from robopolicy.registry import build, parse
from robopolicy.spec import INSTRUCTION, TEXT
from tests.toy_env import toy_spec

ROOT = Path(__file__).parents[2]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def imported(block: str, name: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Import a block as the module `name`."""
    path = home / f"{name}.py"
    path.write_text(block)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, loaded)
    spec.loader.exec_module(loaded)


def test_the_worked_example_trains_and_acts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (module,) = blocks("docs/adding_a_policy.md", "python")
    (settings,) = blocks("docs/adding_a_policy.md", "yaml")
    imported(module, "regression_example", tmp_path, monkeypatch)
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


def test_the_text_encoder_of_the_page_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With something else for the language model, which is asked once for each text."""
    asked: list[str] = []

    class Model:
        def __init__(self, name: str, device: str) -> None:
            assert (name, device) == ("all-MiniLM-L6-v2", "cpu")

        def encode(self, text: str) -> np.ndarray:
            asked.append(text)
            return np.full(384, len(text), np.float32)

    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=Model))
    (module,) = blocks("docs/adding_a_policy.md", "py")
    imported(module, "my_texts", tmp_path, monkeypatch)
    spec = replace(toy_spec(), observations={**toy_spec().observations, INSTRUCTION: TEXT})
    encoder = {"name": "state", "text": {"name": "sentences"}}
    codec = Codec(CodecConfig(), spec)
    policy = build("policy", {"name": "diffusion", "encoder": encoder}, spec=spec, codec=codec)
    assert policy.encoder.size == 4 + 32
    states = {key: torch.zeros(2, 2, 2) for key in ("position", "goal")}
    batch = Batch(observation=states, action=torch.zeros(2, 16, 2), instruction=["stay", "stay"])
    policy(batch, torch.Generator())[0].backward()
    assert policy.encoder.text.outlet.weight.grad.abs().max() > 0
    assert asked == ["stay"]
    assert not [name for name in policy.state_dict() if ".text." in name and ".outlet." not in name]
    noise = torch.zeros(2, 1, 16, 2)
    actions = policy.sample({**states, INSTRUCTION: ["go", "stay"]}, noise=noise).actions
    assert (actions[0] - actions[1]).abs().max() > 1e-5
    assert asked == ["stay", "go"]


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
