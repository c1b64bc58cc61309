"""The pixel version on a CPU: shapes, rounding, and a few updates that learn something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from robopolicy.codecs import Codec, CodecConfig
from robopolicy.errors import ConfigError
from robopolicy.evaluation.baselines import RandomActor
from robopolicy.evaluation.collect import collect
from robopolicy.learning.log import read_metrics
from robopolicy.learning.trainer import Trainer
from robopolicy.registry import parse
from robopolicy.rollout import ExpertActor
from robopolicy.spec import Spec
from robopolicy.world.imagined import ImaginedVectorEnv
from robopolicy.world.pixels import PixelWorld, PixelWorldConfig
from robopolicy.world.starts import Starts
from robopolicy.world.train import TrainWorldConfig, prepare
from robopolicy.world.world import load_world
from tests.pixel_env import PixelToyEnv, pixel_task
from tests.toy_env import toy_spec

SMALL: dict[str, Any] = {
    "network": {"channels": [8, 8], "depth": 1, "attention": [False, False], "condition": 16},
    "history": 2,
    "success_channels": [8, 8],
    "steps": 2,
}
TASK = pixel_task(noise=0.3)


def spec() -> Spec:
    return PixelToyEnv(_toy_config(), task=TASK).robot_spec.select(["top_image"])


def _toy_config() -> Any:
    from tests.toy_env import ToyConfig

    return ToyConfig()


def small() -> PixelWorld:
    torch.manual_seed(0)
    config = parse(PixelWorldConfig, {"tasks": ["pixel_toy"], **SMALL})
    codec = Codec(CodecConfig(observation="identity", action="identity"), spec())
    return PixelWorld(config, spec=spec(), codec=codec)


def test_pictures_survive_the_way_there_and_back() -> None:
    world = small()
    picture = torch.randint(0, 256, (3, 2, 64, 64, 3), dtype=torch.uint8)
    frames = world.join({"top_image": picture})
    assert frames.shape == (3, 2, 3, 64, 64)
    assert torch.equal(world.split(frames)["top_image"], picture)


def test_imagined_pictures_are_of_eight_bits() -> None:
    world = small().eval()
    history = world.join({"top_image": torch.randint(0, 256, (2, 2, 64, 64, 3), dtype=torch.uint8)})
    actions, task = torch.zeros(2, 2, world.spec.action.size), torch.zeros(2, dtype=torch.int64)
    made = world.imagine(history, actions, task, torch.randn(2, 3, 64, 64))
    levels = (made.frame + 1) * 127.5
    assert torch.allclose(levels, levels.round(), atol=1e-3)
    assert made.frame.abs().max() <= 1
    assert world.succeeded(made.frame, task).shape == (2,)
    assert world.plausible(made.frame).all()


def test_what_it_cannot_predict_is_refused() -> None:
    codec = Codec(CodecConfig(observation="identity", action="identity"), toy_spec())
    with pytest.raises(ConfigError, match=r"one picture alone, not \['goal', 'position'\]"):
        PixelWorld(parse(PixelWorldConfig, {"tasks": ["toy"], **SMALL}), spec=toy_spec(), codec=codec)
    deep = {**SMALL, "network": {"channels": [8] * 8, "attention": [False] * 8, "condition": 16}}
    codec = Codec(CodecConfig(observation="identity", action="identity"), spec())
    with pytest.raises(ConfigError, match="64 x 64 must be divisible by 128"):
        PixelWorld(parse(PixelWorldConfig, {"tasks": ["t"], **deep}), spec=spec(), codec=codec)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:No rule of success")
def test_it_trains_and_imagines_a_few_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "_validate", lambda self: 0.0)  # of 2048 pictures: for a GPU
    collect(TASK, tmp_path / "expert.zarr", actor=ExpertActor(4), episodes=6, workers=0, progress=False)
    random = RandomActor(toy_spec().action, 4)
    collect(TASK, tmp_path / "random.zarr", actor=random, episodes=4, workers=0, progress=False)
    config = {
        "world": {"name": "pixels", **SMALL},
        "trainer": {"steps": 12, "batch_size": 4, "learning_rate": 1e-3, "warmup": 2, "log_every": 4},
        "data": [str(tmp_path / "expert.zarr"), str(tmp_path / "random.zarr")],
        "validation": 0.4,
        "out": str(tmp_path / "run"),
        "device": "cpu",
    }
    training = prepare(parse(TrainWorldConfig, config, "train_world"), progress=False)
    training.run()
    losses = [row["dynamics"] for row in read_metrics(tmp_path / "run/metrics.jsonl") if "dynamics" in row]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    world = load_world(tmp_path / "run")
    envs = ImaginedVectorEnv(world, Starts.load(tmp_path / "run"), TASK, 2, chunk=2)
    first, _ = envs.reset(seed=0)
    assert first["top_image"].shape == (2, 64, 64, 3)
    step = envs.step_chunk(torch.zeros(2, 2, 2).numpy())
    assert step.observations["top_image"].shape == (2, 2, 64, 64, 3)
    assert step.observations["top_image"].dtype == "uint8"
