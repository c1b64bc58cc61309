"""Instructions: hashed words, and a policy that does what it is told."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robopolicy import load
from robopolicy.codecs import Codec, CodecConfig
from robopolicy.data.store import EpisodeStore
from robopolicy.env import make_env
from robopolicy.errors import ConfigError
from robopolicy.registry import build, register
from robopolicy.rollout import PolicyActor, run_episodes
from robopolicy.spec import INSTRUCTION, TEXT, Spec
from robopolicy.vector import LaneVectorEnv
from tests.commands import TINY, run
from tests.toy_env import toy_spec, toy_task

SPEC = replace(toy_spec(), observations={**toy_spec().observations, INSTRUCTION: TEXT})
TOLD = {"go to the goal": 1.0, "go away from the goal": -1.0}
CONFIG = {
    "name": "diffusion", "encoder": {"name": "state", "text": {"name": "hashed"}}, "pred_horizon": 8,
    "action_horizon": 4, "network": {"name": "mlp", "width": 32}, "sampler": {"name": "ddim", "steps": 2},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LettersConfig:
    size: int = 3


@register("text_encoder", "letters")
class Letters(nn.Module):
    """Stands for a language model: somebody else's class, whose tokens are numbers."""

    def __init__(self, config: LettersConfig) -> None:
        super().__init__()
        self.config, self.size = config, config.size
        self.table = nn.Embedding(128, config.size)

    def tokens(self, texts: list[str]) -> Tensor:
        return torch.tensor([[ord(text[0]), len(text)] for text in texts])

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table(tokens).sum(1)


def observation(batch: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {key: rng.normal(size=(batch, 2, 2)).astype(np.float32) for key in ("position", "goal")}


def make_policy(spec: Spec = SPEC, **encoder: Any) -> Any:
    torch.manual_seed(0)
    config = {**CONFIG, "encoder": {"name": "state", "text": {"name": "hashed"}, **encoder}}
    return build("policy", config, spec=spec, codec=Codec(CodecConfig(), spec))


def test_tokens_depend_on_words_and_their_order_alone() -> None:
    encoder = build("text_encoder", {"name": "hashed", "buckets": 4096})
    one, same, other, swapped, empty = encoder.tokens(
        ["put red on blue", "Put red on  blue!", "lift the cup", "put blue on red", ""]
    )
    assert torch.equal(one, same)
    assert float(one.norm()) == pytest.approx(1.0)
    assert float(one @ other) == 0
    assert 0.3 < float(one @ swapped) < 0.9
    assert not empty.any()


def test_a_policy_takes_a_list_of_texts() -> None:
    policy, seen, noise = make_policy(), observation(3), torch.zeros(3, 1, 8, 2)
    texts = ["go", "stay", "go"]
    actions = policy.sample({**seen, INSTRUCTION: texts}, noise=noise).actions
    assert isinstance(actions, np.ndarray)
    changed = policy.sample({**seen, INSTRUCTION: ["go", "go", "go"]}, noise=noise).actions
    np.testing.assert_allclose(actions[[0, 2]], changed[[0, 2]], rtol=1e-5)
    assert np.abs(actions[1] - changed[1]).max() > 1e-4
    three = policy.sample({**seen, INSTRUCTION: texts}, n=3, noise=noise.expand(3, 3, 8, 2)).actions
    np.testing.assert_allclose(three[:, 2], actions[:, 0], rtol=1e-4, atol=1e-6)
    with pytest.raises(ConfigError, match="'instruction'"):
        policy.sample(seen)
    with pytest.raises(ConfigError, match="batch size"):
        policy.sample({**seen, INSTRUCTION: texts[:2]})


def test_any_registered_class_encodes_text() -> None:
    policy = make_policy(text={"name": "letters"})
    seen = {**observation(2), INSTRUCTION: ["b", "b"]}
    assert policy.encoder.size == 4 + 3
    assert policy.sample(seen).actions.shape == (2, 1, 8, 2)


def test_text_and_its_encoder_come_together() -> None:
    with pytest.raises(ConfigError, match=r"give both, or neither"):
        make_policy(text=None)
    with pytest.raises(ConfigError, match=r"give both, or neither"):
        make_policy(toy_spec())
    with pytest.raises(ConfigError, match="hashed"):
        make_policy(text={"name": "hash"})


def told_store(path: Path) -> None:
    """Half of the episodes go to the goal and half go the opposite way; only their instruction tells."""
    task = toy_task()
    env = make_env(task)
    store = EpisodeStore.create(path, env.robot_spec, task=task.to_dict())
    for seed, (text, sign) in itertools.product(range(60), TOLD.items()):
        seen, _ = env.reset(seed=seed)
        expert, rows = env.expert(seed, {"noise": 0.05}), []
        for _ in range(10):
            action = np.float32(sign) * expert.act(seen)
            rows.append({**seen, "action": action})
            seen = env.step(action)[0]
        arrays = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        store.append(arrays, seed=seed, instruction=text)


@pytest.mark.slow
def test_it_does_what_it_is_told(tmp_path: Path) -> None:
    """The same states, two instructions: through the store, training, the checkpoint and the task."""
    told_store(tmp_path / "told.zarr")
    settings = ["trainer.steps=400", "trainer.learning_rate=3e-3", "policy.network.width=96"]
    line = [*TINY, *settings, "policy.encoder.text={name:hashed}", "validation=0.1"]
    run("train", f"data={tmp_path}/told.zarr", f"out={tmp_path}/run", *line)
    policy = load(tmp_path / "run")
    assert policy.spec.observations[INSTRUCTION] == TEXT
    for text, sign in TOLD.items():
        envs = LaneVectorEnv(replace(toy_task(horizon=8), instruction=text), 10, success_hold=-1)
        cosines = []
        for episode in run_episodes(envs, PolicyActor(policy), range(500, 510), record=True):
            first, last = episode.data["position"][[0, -1]]
            way, gap = last - first, episode.data["goal"][0] - first
            cosines.append(way @ gap / np.linalg.norm(way) / np.linalg.norm(gap))
        assert sign * np.mean(cosines) > 0.6, (text, cosines)
    out = tmp_path / "offline"
    run("evaluate", f"checkpoint={tmp_path}/run", f"data={tmp_path}/told.zarr", f"out={out}", "episodes=2",
        "workers=0", "video=0")  # fmt: skip
    assert (out / "offline_error.json").exists()
