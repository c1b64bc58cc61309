from __future__ import annotations

import copy
import json
import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robopolicy import load
from robopolicy.compose import compose
from robopolicy.data.store import EpisodeStore
from robopolicy.errors import CheckpointError, ConfigError
from robopolicy.learning.checkpoint import steps
from robopolicy.learning.distributed import Ranks
from robopolicy.learning.log import read_metrics
from robopolicy.learning.nan_guard import NotFiniteError
from robopolicy.learning.train import TrainConfig, prepare
from robopolicy.learning.trainer import Trainer, TrainerConfig, learning_rate
from robopolicy.policies.policy import Policy
from robopolicy.registry import parse
from robopolicy.seeding import derive


@pytest.fixture
def store(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(6):
        state = rng.normal(size=(20, 3)).astype(np.float32)
        episodes.append({"state": state, "action": np.tanh(state[:, :2]) + 0.0})
    EpisodeStore.from_arrays(tmp_path / "own.zarr", episodes=episodes, control_hz=10)
    return tmp_path / "own.zarr"


def trainer(store: Path, out: Path, **changes: Any) -> Trainer[Policy]:
    overrides = [f"data={store}", f"out={out}", "policy.network.width=32", "policy.network.blocks=1"]
    settings = {"steps": 30, "batch_size": 16, "log_every": 10, "validate_every": 10, "warmup": 5}
    overrides += [f"trainer.{k}={v}" for k, v in settings.items()] + [
        "validation=0.2",
        "policy.network.dropout=0.1",
    ]
    overrides += [f"{k}={v}" for k, v in changes.items()]
    return prepare(parse(TrainConfig, compose("train", overrides), "train"), progress=False)


def interrupt_at(target: Trainer[Policy], step: int) -> None:
    """Ctrl-C in the middle of the update that leads to `step`."""
    original = target._update

    def update() -> Any:
        if target.step == step - 1:
            signal.raise_signal(signal.SIGINT)
        return original()

    target._update = update  # type: ignore[method-assign]


def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(store: Path, tmp_path: Path) -> None:
    whole = trainer(store, tmp_path / "whole").train()
    first = trainer(store, tmp_path / "parts")
    interrupt_at(first, 13)
    with pytest.raises(KeyboardInterrupt):
        first.train()
    second = trainer(store, tmp_path / "parts")
    assert second.step == 13
    resumed = second.train()
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    kept = [
        {k: v for k, v in row.items() if "_per_s" not in k and "share" not in k}
        for row in read_metrics(tmp_path / "parts" / "metrics.jsonl")
    ]
    assert [row["step"] for row in kept] == [10, 10, 20, 20, 30, 30]
    losses = [row["validation_loss"] for row in kept if "validation_loss" in row]
    expected = [
        r["validation_loss"] for r in read_metrics(tmp_path / "whole/metrics.jsonl") if "validation_loss" in r
    ]
    assert losses == expected


@pytest.mark.parametrize("family", ["diffusion", "energy_published", "modality_dropout"])
def test_every_rank_draws_numbers_of_its_own(family: str, store: Path, tmp_path: Path) -> None:
    """Batch, the loss's noise and dropout are those of (seed, step, rank), and differ between ranks."""
    drawn = []
    for rank in (0, 1):
        running = trainer(store, tmp_path / str(rank), policy=family)
        running.ranks = Ranks(rank, 1)  # by itself: nothing is averaged
        policy, windows = copy.deepcopy(running.policy), running.windows
        loss, _ = running._update()
        stream = derive(0, f"train/0/{rank}")
        generator = torch.Generator().manual_seed(stream)
        torch.manual_seed(stream)
        index = torch.randint(len(windows), (16,), generator=generator)
        state = generator.get_state()
        assert torch.equal(policy(windows.gather(index), generator)[0], loss)
        generator.set_state(state)
        same = windows.gather(torch.arange(16))  # the same batch for both, so that noise alone differs
        drawn.append((index, policy.eval()(same, generator)[0]))
    assert not torch.equal(drawn[0][0], drawn[1][0])
    assert not torch.equal(drawn[0][1], drawn[1][1])


def test_checkpoint_loads_and_acts_identically(store: Path, tmp_path: Path) -> None:
    trained = trainer(store, tmp_path / "run").train()
    loaded = load(tmp_path / "run")
    seen = {"state": np.random.default_rng(0).normal(size=(3, 2, 3)).astype(np.float32)}
    noise = torch.randn(3, 1, *trained.noise_shape)
    np.testing.assert_array_equal(
        trained.sample(seen, noise=noise).actions, loaded.sample(seen, noise=noise).actions
    )
    assert loaded.provenance.step == 30
    assert loaded.provenance.fingerprint == EpisodeStore.open(store).fingerprint()
    assert loaded.provenance.config["trainer"]["batch_size"] == 16


def test_an_equal_configuration_resumes_and_another_is_refused(store: Path, tmp_path: Path) -> None:
    trainer(store, tmp_path / "run").train()
    assert trainer(store, tmp_path / "run").step == 30
    with pytest.raises(ConfigError, match=r"trainer.learning_rate: 0.0003 there, 0.001 now"):
        trainer(store, tmp_path / "run", **{"trainer.learning_rate": 0.001})


def test_old_checkpoints_are_removed(store: Path, tmp_path: Path) -> None:
    trainer(store, tmp_path / "run", **{"trainer.checkpoint_seconds": 0.0, "trainer.keep": 2}).train()
    assert [path.name for path in steps(tmp_path / "run")] == ["step-00000029", "step-00000030"]


class Told:
    """Success as it is told, evaluation by evaluation."""

    seeds = (1_000_000, 1_000_001)

    def __init__(self, *successes: float) -> None:
        self.left = list(successes)

    def __call__(self, policy: Policy) -> dict[str, float]:
        return {"success": self.left.pop(0), "return": 0.0}


def test_the_best_of_the_evaluations_is_kept_and_knows_what_it_was_chosen_on(
    store: Path, tmp_path: Path
) -> None:
    best = tmp_path / "run/best"
    learning = trainer(store, tmp_path / "run", **{"trainer.evaluate_every": 10})
    learning.evaluate = Told(0.5, 0.7, 0.6)
    learning.train()
    assert load(best).provenance.step == 20
    assert load(tmp_path / "run").provenance.step == 30
    assert set(Told.seeds) <= set(load(best).provenance.used_seeds)
    assert not set(Told.seeds) & set(load(tmp_path / "run").provenance.used_seeds)
    longer = trainer(store, tmp_path / "other", **{"trainer.evaluate_every": 10, "trainer.steps": 40})
    longer.evaluate = Told(0.7, 0.1)
    interrupt_at(longer, 25)
    with pytest.raises(KeyboardInterrupt):
        longer.train()
    longer = trainer(store, tmp_path / "other", **{"trainer.evaluate_every": 10, "trainer.steps": 40})
    longer.evaluate = Told(0.6, 0.7)  # what was as good before the interruption is beaten by a draw alone
    longer.train()
    assert load(tmp_path / "other/best").provenance.step == 40


def test_the_lowest_validation_loss_may_decide_instead(store: Path, tmp_path: Path) -> None:
    learning = trainer(store, tmp_path / "run", **{"trainer.best": "validation_loss"})
    losses = iter([3.0, 1.0, 2.0])
    learning._validate = lambda: next(losses)  # type: ignore[method-assign]
    learning.train()
    assert load(tmp_path / "run/best").provenance.step == 20
    with pytest.raises(ConfigError, match=r"needs episodes to validate on"):
        trainer(store, tmp_path / "none", **{"trainer.best": "validation_loss", "validation": 0})


def test_a_loss_that_is_not_finite_leaves_evidence(store: Path, tmp_path: Path) -> None:
    broken = trainer(store, tmp_path / "run")
    with torch.no_grad():
        broken.policy.network.inlet.weight[0, 0] = math.nan  # type: ignore[union-attr, operator]
    with pytest.raises(NotFiniteError, match=r"network\.inlet\.weight"):
        broken.train()
    evidence = tmp_path / "run" / "nan" / "step-00000000"
    assert {p.name for p in evidence.iterdir()} == {"batch.safetensors", "weights.safetensors", "state.json"}
    assert json.loads((evidence / "state.json").read_text())["config"]["seed"] == 0


def test_learning_rate_warms_up_and_decays() -> None:
    config = TrainerConfig(steps=1000, warmup=100, learning_rate=1.0)
    assert learning_rate(config, 0) == pytest.approx(0.01)
    assert learning_rate(config, 99) == pytest.approx(1.0)
    assert learning_rate(config, 550) == pytest.approx(0.5)
    assert learning_rate(config, 1000) == pytest.approx(0.0)
    assert learning_rate(TrainerConfig(decay="constant", learning_rate=0.5), 10_000) == 0.5


def test_training_lowers_the_loss(store: Path, tmp_path: Path) -> None:
    trainer(store, tmp_path / "run", **{"trainer.steps": 300, "trainer.learning_rate": 0.003}).train()
    losses = [row["loss"] for row in read_metrics(tmp_path / "run/metrics.jsonl") if "loss" in row]
    assert losses[-1] < 0.5 * losses[0]


def test_resuming_with_another_seed_is_refused(store: Path, tmp_path: Path) -> None:
    trainer(store, tmp_path / "run").train()
    (tmp_path / "run" / "config.json").unlink()
    with pytest.raises(CheckpointError, match="seed 0"):
        trainer(store, tmp_path / "run", seed=1)
