"""From demonstrations to a measured policy, through what the scripts call."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from robopolicy import load
from robopolicy.compose import compose
from robopolicy.data.store import EpisodeStore
from robopolicy.evaluation.collect import collect
from robopolicy.evaluation.evaluate import Evaluation, evaluate
from robopolicy.evaluation.replay import replay
from robopolicy.learning.checkpoint import steps
from robopolicy.learning.distributed import Ranks
from robopolicy.learning.log import read_metrics
from robopolicy.learning.train import TrainConfig, prepare
from robopolicy.registry import parse
from robopolicy.rollout import PolicyActor
from robopolicy.seeding import derive
from robopolicy.task import Task
from tests.commands import SCRIPTS, TINY, run
from tests.toy_env import toy_task

TASK = toy_task(noise=0.1)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy store and a policy trained on it."""
    home = tmp_path_factory.mktemp("toy")
    collect(TASK, home / "toy.zarr", episodes=120, workers=0, progress=False)
    settings = ["trainer.steps=600", "trainer.learning_rate=3e-3", "policy.network.width=96"]
    run("train", f"data={home}/toy.zarr", f"out={home}/run", "validation=0.1", *TINY, *settings)
    return home


@pytest.fixture(scope="module")
def table(home: Path) -> Evaluation:
    """The trained policy's, measured in this process."""
    return evaluate(PolicyActor(load(home / "run")), TASK, episodes=20, workers=0, progress=False)


def test_the_policy_learned_the_task(table: Evaluation) -> None:
    assert table.block == "report"
    assert table.success_rate > 0.8, table.summary()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_script_measures_the_same_with_any_workers(
    home: Path, table: Evaluation, tmp_path: Path, workers: int
) -> None:
    line = [f"checkpoint={home}/run", f"out={tmp_path}", f"workers={workers}", "episodes=20", "video=0"]
    run("evaluate", *line)
    assert Evaluation.load(tmp_path).rows == table.rows
    assert (tmp_path / "report.html").exists()


def test_the_offline_error_on_its_own_store(home: Path, tmp_path: Path) -> None:
    line = [f"checkpoint={home}/run", f"data={home}/toy.zarr", f"out={tmp_path}"]
    run("evaluate", *line, "episodes=2", "workers=0", "video=0")
    error = json.loads((tmp_path / "offline_error.json").read_text())
    assert error["names"] == ["x", "y"]
    assert error["episodes"] == 12
    assert max(error["relative"]) < 1  # always predicting the mean


@pytest.mark.slow
def test_one_run_for_each_seed(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(SCRIPTS / "train.py")])
    run("train", "-m", "seed=3,4", f"data={home}/toy.zarr", "trainer.steps=2", *TINY)
    policies = [load(f"outputs/toy/diffusion/default/seed{seed}") for seed in (3, 4)]
    weights = [next(iter(policy.parameters())) for policy in policies]
    assert [policy.provenance.config["seed"] for policy in policies] == [3, 4]
    assert not (weights[0] == weights[1]).all()


@pytest.mark.slow
def test_two_ranks_train_one_policy(home: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    settings = [
        f"data={home}/toy.zarr",
        f"out={tmp_path}/run",
        "trainer.steps=6",
        "trainer.log_every=2",
        *TINY,
    ]
    done = subprocess.run(
        [*line, str(SCRIPTS / "train.py"), *settings], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Saved to") == 1
    assert [path.name for path in steps(tmp_path / "run")] == ["step-00000006"]
    losses = [row["loss"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in row]
    assert len(losses) == 3
    assert all(map(math.isfinite, losses))
    assert load(tmp_path / "run").provenance.step == 6


@pytest.mark.slow
def test_two_ranks_descend_from_noise_of_their_own(home: Path, tmp_path: Path) -> None:
    """Two processes take the steps of one that averages the gradients of both seeds."""
    settings = [
        f"data={home}/toy.zarr",
        "policy=energy_published",
        "policy.network.width=32",
        "policy.network.blocks=1",
        "trainer.steps=3",
        "trainer.batch_size=32",
        "trainer.warmup=2",
    ]
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [*line, str(SCRIPTS / "train.py"), *settings, f"out={tmp_path}/two"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    config = parse(TrainConfig, compose("train", [*settings, f"out={tmp_path}/one"]), "train")
    alone = prepare(config, progress=False)

    class Both(Ranks):
        """Rank 0, which also does what rank 1 would."""

        def average_gradients(self, parameters: Sequence[Tensor]) -> None:
            mine = [p.grad for p in parameters]
            stream = derive(0, f"train/{alone.step}/1")
            alone.generator.manual_seed(stream)
            index = torch.randint(len(alone.windows), (32,), generator=alone.generator)
            loss, _ = alone.policy(alone.windows.gather(index), alone.generator)
            theirs = torch.autograd.grad(loss, list(parameters), allow_unused=True)
            for parameter, a, b in zip(parameters, mine, theirs, strict=True):
                parameter.grad = None if a is None or b is None else (a + b) / 2

    alone.ranks = Both(0, 1)
    expected = alone.train()
    for (name, found), wanted in zip(
        load(tmp_path / "two").named_parameters(), expected.parameters(), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_trains_the_same_policy(home: Path, tmp_path: Path) -> None:
    losses = []
    for compiled in ("false", "true"):
        out = tmp_path / compiled
        line = [f"data={home}/toy.zarr", f"out={out}", "trainer.steps=4", f"trainer.compile={compiled}"]
        run("train", *line, "trainer.log_every=1", *TINY)
        losses.append([row["loss"] for row in read_metrics(out / "metrics.jsonl") if "loss" in row])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert load(tmp_path / "true").provenance.step == 4


@pytest.mark.slow
@pytest.mark.sim
def test_lift_is_the_same_with_any_workers_and_replays(tmp_path: Path) -> None:
    task = Task.from_dict(compose("collect", ["task=lift"])["task"])
    for workers in (1, 2):
        collect(task, tmp_path / f"{workers}.zarr", episodes=2, lanes=2, workers=workers, progress=False)
    one, two = (EpisodeStore.open(tmp_path / f"{workers}.zarr") for workers in (1, 2))
    assert one.fingerprint() == two.fingerprint()
    assert replay(one, task, episodes=2, lanes=2, workers=0, progress=False) == [True, True]
