from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from robopolicy import load
from robopolicy.codecs import Codec, CodecConfig
from robopolicy.compose import compose
from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import Batch
from robopolicy.errors import ConfigError, SpecMismatch
from robopolicy.learning.checkpoint import save_checkpoint
from robopolicy.learning.train import TrainConfig, prepare
from robopolicy.learning.trainer import Trainer
from robopolicy.policies.composed import ComposedPolicy
from robopolicy.policies.factorized import FactorizedPolicy
from robopolicy.registry import build, parse
from robopolicy.spec import ObservationSpec, Spec
from tests.policies.toys import generators
from tests.policies.two_modes import HORIZONS, SMALL, SPEC, make, observe

NETWORKS: list[dict[str, Any]] = [
    SMALL,
    {"name": "unet1d", "channels": (16, 32), "embedding": 16, "groups": 4},
    {"name": "transformer", "width": 32, "layers": 2, "heads": 2, "dropout": 0.1},
]
CAMERA = ObservationSpec(shape=(16, 16, 3), dtype="uint8", kind="image", group="vision")
SEEING = dataclasses.replace(SPEC, observations={**SPEC.observations, "top_image": CAMERA})
EYES = {"name": "vision", "backbone": "small", "channels": [16], "keypoints": 4, "features": 6}


def save_base(path: Path, keys: tuple[str, ...] = ("position",), spec: Spec = SPEC, **changes: Any) -> Path:
    """A base with statistics of its own."""
    base = make("diffusion", spec.select(keys), **changes)
    rng = torch.Generator().manual_seed(1)
    action = 5 + torch.randn(50, 8, 2, generator=rng)
    seen = {k: 3 * torch.randn(50, 2, *o.shape, generator=rng) for k, o in base.spec.observations.items()}
    base.codec.fit([(seen, action)])
    save_checkpoint(path, base)
    return path


def factorized(base: Path, spec: Spec = SPEC, **changes: Any) -> FactorizedPolicy:
    policy = make("factorized", spec, base=str(base), **changes)
    assert isinstance(policy, FactorizedPolicy)
    return policy


@pytest.mark.parametrize("composition", ["blocks", "output"])
@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n["name"])
def test_it_starts_as_its_base_bit_for_bit(tmp_path: Path, network: dict[str, Any], composition: str) -> None:
    base = load(save_base(tmp_path / "base", network=network))
    policy = factorized(tmp_path / "base", network=network, composition=composition).train()
    seen, noise = observe(3), torch.randn(3, 4, 8, 2)
    expected = base.sample({"position": seen["position"]}, n=4, noise=noise).actions
    np.testing.assert_array_equal(policy.sample(seen, n=4, noise=noise).actions, expected)
    assert np.abs(expected - 5).max() < 5  # the base's action statistics


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Actions are the goal, and noise about the position's sign."""
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(8):
        position = rng.uniform(-1, 1, (24, 2)).astype(np.float32)
        goal = rng.uniform(-1, 1, (24, 2)).astype(np.float32)
        episodes.append({"position": position, "goal": goal, "action": (goal + np.sign(position)) / 2})
    EpisodeStore.from_arrays(tmp_path / "own.zarr", episodes=episodes, control_hz=10)
    return tmp_path / "own.zarr"


def trainer(store: Path, out: Path, steps: int, **changes: Any) -> Trainer:
    overrides = [
        f"data={store}",
        f"out={out}",
        "policy.network.width=32",
        "policy.network.blocks=2",
        "policy.network.dropout=0.1",
        f"trainer.steps={steps}",
        "trainer.batch_size=64",
        "trainer.warmup=5",
        "trainer.learning_rate=3e-3",
        "trainer.weight_decay=0.1",
        "validation=0.2",
        *(f"{key}={value}" for key, value in changes.items()),
    ]
    return prepare(parse(TrainConfig, compose("train", overrides), "train"), progress=False)


def test_two_commands_train_it_and_the_base_never_moves(store: Path, tmp_path: Path) -> None:
    trainer(store, tmp_path / "base", 30, observations="[position]").train()
    base = load(tmp_path / "base")
    factorized = {"policy": "factorized", "policy.base": tmp_path / "base"}
    running = trainer(store, tmp_path / "both", 60, **factorized)
    trained = running.train()
    assert isinstance(trained, FactorizedPolicy)
    assert trained.config.priority == ("position", "goal")  # here the keys stand for themselves
    for policy in (trained, running.policy):
        assert isinstance(policy, FactorizedPolicy)
        assert not policy.base.training
        for (name, ours), theirs in zip(
            policy.base.state_dict().items(), base.state_dict().values(), strict=True
        ):
            assert torch.equal(ours, theirs), name
    seen = {key: np.zeros((2, 2, 2), np.float32) for key in ("position", "goal")}
    noise = torch.randn(2, 1, *trained.noise_shape)
    moved = (
        trained.sample(seen, noise=noise).actions
        - base.sample({"position": seen["position"]}, noise=noise).actions
    )
    assert np.abs(moved).max() > 1e-3
    (tmp_path / "base").rename(tmp_path / "gone")  # a checkpoint stands alone
    np.testing.assert_array_equal(
        load(tmp_path / "both").sample(seen, noise=noise).actions, trained.sample(seen, noise=noise).actions
    )


@pytest.mark.parametrize("composition", ["blocks", pytest.param("output", marks=pytest.mark.slow)])
def test_the_residual_learns_what_the_base_cannot_see(tmp_path: Path, composition: str) -> None:
    """Go to the goal, which the base does not observe."""
    policy = factorized(save_base(tmp_path / "base"), composition=composition).train()
    optimizer = torch.optim.AdamW((p for p in policy.parameters() if p.requires_grad), lr=3e-3)
    generator = torch.Generator().manual_seed(0)

    def draw() -> Batch:
        goal, position = (torch.rand(128, 1, size, generator=generator) * 2 - 1 for size in (2, 3))
        seen = {"goal": goal.expand(-1, 2, -1), "position": position.expand(-1, 2, -1)}
        return Batch(observation=seen, action=5 + goal.expand(-1, 8, -1))

    def error() -> float:
        batch = draw()
        sampled = policy.sample(batch.observation, generator=generator).actions[:, 0]
        return float((sampled - batch.action).square().mean())

    before = error()
    for _ in range(200):
        loss, _ = policy.loss(draw(), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert before > 0.3
    assert error() < 0.05


def test_training_modes_leave_the_base_in_evaluation(tmp_path: Path) -> None:
    policy = factorized(save_base(tmp_path / "base")).train()
    assert policy.training
    assert policy.encoder.training
    assert not any(module.training for module in policy.base.modules())


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n["name"])
def test_a_row_does_not_depend_on_its_batch(tmp_path: Path, network: dict[str, Any]) -> None:
    policy, seen = factorized(save_base(tmp_path / "base", network=network), network=network), observe(3)
    for parameter in policy.network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    whole = policy.sample(seen, n=2, generator=generators(1, 2, 3)).actions
    swapped = {key: np.concatenate([value[:1], 10 * value[[2, 1]]]) for key, value in seen.items()}
    again = policy.sample(swapped, n=2, generator=generators(1, 5, 6)).actions
    np.testing.assert_array_equal(whole[0], again[0])
    assert np.abs(whole[1:] - again[1:]).max() > 0.01


@pytest.mark.parametrize("composition", ["blocks", "output"])
def test_the_residual_may_see_pictures_that_the_base_does_not(tmp_path: Path, composition: str) -> None:
    base = load(save_base(tmp_path / "base", keys=("position", "goal")))
    policy = factorized(tmp_path / "base", SEEING, encoder=EYES, composition=composition).train()
    assert policy.config.priority == ("proprioception", "object", "vision")
    states, noise, rng = observe(16), torch.randn(16, 2, 8, 2), np.random.default_rng(0)
    seen = {**states, "top_image": rng.integers(0, 256, (16, 2, 16, 16, 3), np.uint8)}
    expected = base.sample(states, n=2, noise=noise).actions
    np.testing.assert_array_equal(policy.sample(seen, n=2, noise=noise).actions, expected)
    batch = Batch(
        observation={key: torch.as_tensor(value) for key, value in seen.items()},
        action=torch.as_tensor(expected[:, 0]) + 1,
    )
    began = {name: value.clone() for name, value in policy.state_dict().items()}
    optimizer = torch.optim.AdamW((p for p in policy.parameters() if p.requires_grad), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):  # the first moves what starts at zero alone
        loss, _ = policy(batch, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    moved = {name for name, value in policy.state_dict().items() if not torch.equal(value, began[name])}
    assert any(name.startswith("encoder.cameras.") for name in moved)
    assert not any(name.startswith("base.") for name in moved)
    for (name, ours), theirs in zip(
        policy.base.state_dict().items(), base.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    before = policy.sample(seen, n=2, noise=noise).actions
    assert np.abs(before - expected).max() > 1e-3
    dark = {**seen, "top_image": np.zeros_like(seen["top_image"])}
    assert np.abs(policy.sample(dark, n=2, noise=noise).actions - before).max() > 1e-4


def test_frozen_eyes_are_refused_where_the_base_sees_pictures_too(tmp_path: Path) -> None:
    """Their cached features stand in the pictures' place, and the base has eyes of its own."""
    frozen = {**EYES, "frozen": True, "weights": "elsewhere"}
    base = save_base(tmp_path / "seeing", keys=("position", "top_image"), spec=SEEING, encoder=EYES)
    assert factorized(base, SEEING, encoder=EYES).base.codec.images == ["top_image"]
    with pytest.raises(ConfigError, match=r"encoder\.frozen: its cached features would replace the images"):
        factorized(base, SEEING, encoder=frozen)
    assert factorized(save_base(tmp_path / "blind"), SEEING, encoder=frozen).encoder.vision.frozen


def test_it_counts_both_networks(tmp_path: Path) -> None:
    policy = factorized(save_base(tmp_path / "base"), sampler={"name": "ddim", "steps": 5})
    assert policy.sample(observe(2)).calls == 10


def test_averaging_the_scores_of_two_bases_is_a_composition(tmp_path: Path) -> None:
    """What FDP is compared with: each modality's policy by itself, and the mean of their displacements."""
    bases = [load(save_base(tmp_path / key, keys=(key,))) for key in ("position", "goal")]
    both = ComposedPolicy(cast(Any, bases), [0.5, 0.5], sampler={"corrector": {"steps": 0}})
    seen = {key: torch.as_tensor(value) for key, value in observe(3).items()}
    x, sigma = torch.randn(3, 8, 2), torch.full((3,), 0.7)
    fields = [cast(Any, base).field({k: seen[k] for k in base.spec.observations}) for base in bases]
    expected = sum(field(x, sigma) for field in fields) / 2
    assert torch.allclose(both.field(seen)(x, sigma), expected, atol=1e-5)
    assert np.isfinite(both.sample(seen, n=2).actions.numpy()).all()


def test_settings_that_differ_from_the_base_are_listed(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    with pytest.raises(ConfigError, match=r"pred_horizon: 16 here, 8 in the base\n.*prediction: 'epsilon'"):
        factorized(base, pred_horizon=16, prediction="epsilon")
    codec = Codec(CodecConfig(rot6d=False), SPEC)
    settings = {"name": "factorized", "network": SMALL, **HORIZONS, "base": str(base)}
    with pytest.raises(ConfigError, match=r"codec.rot6d: False here, True"):
        build("policy", settings, spec=SPEC, codec=codec)


def test_a_base_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"policy\.base="):
        make("factorized")
    everything = save_base(tmp_path / "everything", keys=("position", "goal"))
    with pytest.raises(ConfigError, match="no group is left"):
        factorized(everything)
    nested = tmp_path / "nested"
    save_checkpoint(nested, factorized(save_base(tmp_path / "base")))
    with pytest.raises(ConfigError, match="must be a diffusion policy"):
        factorized(nested)
    with pytest.raises(SpecMismatch, match="'position': missing"):
        make("factorized", SPEC.select(["goal"]), base=str(tmp_path / "base"))


def test_the_priority_is_checked_and_recorded(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    assert factorized(base).config.priority == ("proprioception", "object")
    assert factorized(base, priority=["proprioception"]).config.priority == ("proprioception", "object")
    with pytest.raises(ConfigError, match=r"the base saw \['proprioception'\]"):
        factorized(base, priority=["object", "proprioception"])
    with pytest.raises(ConfigError, match=r"no observation is of group \['vision'\]"):
        factorized(base, priority=["vision"])
