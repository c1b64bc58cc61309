"""Image encoders: sizes, crops, keypoints, cached features, and a policy that learns from pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robopolicy import load
from robopolicy.codecs import Codec, CodecConfig
from robopolicy.compose import compose
from robopolicy.data.store import EpisodeStore
from robopolicy.data.windows import Windows
from robopolicy.errors import CheckpointError, ConfigError
from robopolicy.evaluation.collect import collect
from robopolicy.evaluation.evaluate import evaluate
from robopolicy.learning.train import TrainConfig, cache_features, load_cameras, prepare
from robopolicy.networks.vision import ResNet18, centre_crop, random_crop, spatial_softmax
from robopolicy.registry import build, parse
from robopolicy.rollout import PolicyActor
from robopolicy.spec import ActionSpec, ObservationSpec, Spec
from tests.commands import run
from tests.pixel_env import pixel_task

CAMERA = ObservationSpec(shape=(32, 32, 3), dtype="uint8", kind="image")
SPEC = Spec(
    observations={"wrist_image": CAMERA, "pose": ObservationSpec(shape=(3,)), "front_image": CAMERA},
    action=ActionSpec(names=("x", "y"), low=(-1.0, -1.0), high=(1.0, 1.0)),
    control_hz=10,
)
SMALL = {"name": "vision", "backbone": "small", "channels": [16, 32], "keypoints": 8, "features": 12}
NETWORK = {"name": "mlp", "width": 32, "blocks": 1, "embedding": 16}


def make_encoder(**changes: Any) -> Any:
    torch.manual_seed(0)
    return build("encoder", {**SMALL, **changes}, spec=SPEC)


def make_policy(**encoder: Any) -> Any:
    torch.manual_seed(0)
    config = {
        "name": "diffusion", "encoder": {**SMALL, **encoder}, "network": NETWORK, "pred_horizon": 8,
        "action_horizon": 4, "sampler": {"name": "ddim", "steps": 2},
    }  # fmt: skip
    return build("policy", config, spec=SPEC, codec=Codec(CodecConfig(), SPEC))


def test_pictures_of_which_one_place_is_left_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"front_image: of 29 pixels .* 5 halvings.*backbone=small"):
        make_encoder(backbone="resnet18")
    with pytest.raises(ConfigError, match=r"of 29 pixels .* fewer channels"):
        make_encoder(channels=[16] * 5)
    sees, picture = make_encoder(channels=[16] * 4), torch.rand(1, 1, 32, 32, 3) * 2 - 1
    assert not torch.equal(sees.embed("wrist_image", picture), sees.embed("wrist_image", -picture))


def observation(batch: int = 3, steps: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    images = {
        key: rng.integers(0, 256, (batch, steps, 32, 32, 3), dtype=np.uint8)
        for key in ("wrist_image", "front_image")
    }
    return {**images, "pose": rng.normal(size=(batch, steps, 3)).astype(np.float32)}


def encoded(seen: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    codec = Codec(CodecConfig(), SPEC)
    return codec.encode_observation({key: torch.as_tensor(value) for key, value in seen.items()})


def test_the_resnet_has_the_published_number_of_parameters() -> None:
    network = ResNet18()
    assert sum(p.numel() for p in network.parameters()) == 11_176_512  # 11,689,512 without its classifier
    assert network(torch.zeros(1, 3, 76, 76)).shape == (1, 512, 3, 3)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    groups = {m.num_channels: m.num_groups for m in network.modules() if isinstance(m, nn.GroupNorm)}
    assert groups == {width: width // 16 for width in (64, 128, 256, 512)}


def test_spatial_softmax_finds_a_peak() -> None:
    maps = torch.full((1, 2, 5, 9), -50.0)
    maps[0, 0, 4, 0] = maps[0, 1, 2, 6] = 50.0
    torch.testing.assert_close(spatial_softmax(maps), torch.tensor([[-1.0, 0.5, 1.0, 0.0]]))


def test_crops() -> None:
    picture = torch.arange(10 * 2 * 8 * 9).view(10, 2, 8, 9, 1)
    torch.testing.assert_close(centre_crop(picture, (4, 5)), picture[:, :, 2:6, 2:7])
    torch.manual_seed(0)
    cropped = random_crop(picture, (4, 5))
    found = set()
    for row, whole in zip(cropped, picture, strict=True):
        places = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if torch.equal(row, whole[:, top : top + 4, left : left + 5])
        ]
        assert len(places) == 1
        found.add(places[0])
    assert len(found) > 3
    torch.testing.assert_close(random_crop(picture, (8, 9)), picture)


def test_cameras_and_states_side_by_side() -> None:
    encoder, seen = make_encoder(crop=1.0), encoded(observation())
    condition = encoder(seen)
    assert condition.shape == (3, 2, encoder.size) == (3, 2, 12 + 12 + 3)
    torch.testing.assert_close(condition[..., 24:], seen["pose"])
    for key, where in (("front_image", slice(0, 12)), ("wrist_image", slice(12, 24))):
        other = encoder({**seen, key: -seen[key]})
        same = torch.ones(encoder.size, dtype=torch.bool)
        same[where] = False
        torch.testing.assert_close(other[..., same], condition[..., same])
        assert not torch.allclose(other[..., where], condition[..., where])
    single = encoder({key: value[1:2, 1:] for key, value in seen.items()})
    torch.testing.assert_close(single[0, 0], condition[1, 1], rtol=1e-4, atol=1e-5)


def test_crops_vary_in_training_alone() -> None:
    encoder, seen = make_encoder(crop=0.7), encoded(observation())
    torch.manual_seed(0)
    first, second = encoder(seen), encoder(seen)
    assert not torch.allclose(first, second)
    encoder.eval()
    torch.testing.assert_close(encoder(seen), encoder(seen))


@pytest.mark.usefixtures("rounding")
def test_bfloat16_stays_close() -> None:
    seen = encoded(observation())
    exact, rounded = (make_encoder(precision=p).eval()(seen) for p in ("float32", "bfloat16"))
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.05


@pytest.mark.usefixtures("rounding")
def test_positions_are_not_rounded_with_the_convolutions() -> None:
    encoder = make_encoder(precision="bfloat16").eval()
    (features, *_) = encoder.pictures(encoded(observation()))
    assert not torch.equal(features, features.bfloat16().float())


def test_everything_is_trained() -> None:
    encoder = make_encoder()
    encoder(encoded(observation())).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_cached_features_are_those_of_the_pictures(tmp_path: Path) -> None:
    episodes = [
        {**{k: v[:, 0] for k, v in observation(7, 1).items()}, "action": np.zeros((7, 2), np.float32)}
    ]
    store = EpisodeStore.from_arrays(tmp_path / "s.zarr", episodes, control_hz=10)
    windows = Windows(
        store, obs_keys=list(SPEC.observations), obs_horizon=2, pred_horizon=8, action_horizon=4
    )
    policy = make_policy(frozen=True, weights="elsewhere").train()
    index = torch.arange(7)
    expected = policy.condition(windows.gather(index).observation)
    cache_features(policy, windows)
    batch = windows.gather(index)
    assert batch.observation["front_image"].shape == (7, 2, 12)
    torch.testing.assert_close(policy.condition(batch.observation), expected, rtol=1e-4, atol=1e-5)
    policy(batch, torch.Generator())[0].backward()
    assert all(p.grad is None for p in policy.encoder.cameras.parameters())
    assert any(p.grad is not None for p in policy.network.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": 0.0}, "crop"),
        ({"channels": [20]}, "multiples of 16"),
        ({"frozen": True}, "needs weights"),
        ({"backbone": "resnet50"}, "resnet18"),
    ],
)
def test_settings_that_cannot_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_encoder(**changes)


def test_encoder_and_observations_must_fit() -> None:
    with pytest.raises(ConfigError, match=r"reads no images.*encoder=vision"):
        build("encoder", {"name": "state"}, spec=SPEC)
    with pytest.raises(ConfigError, match="needs an image"):
        build("encoder", SMALL, spec=SPEC.select(["pose"]))


@pytest.mark.slow
def test_the_published_encoder_takes_a_step(tmp_path: Path) -> None:
    """The preset as it is, on few small pictures: every weight of the ResNet moves, and the policy acts."""
    rng = np.random.default_rng(0)
    episode = {
        "top_image": rng.integers(0, 256, (6, 64, 64, 3), dtype=np.uint8),
        "pose": rng.normal(size=(6, 3)).astype(np.float32),
        "action": rng.uniform(-1, 1, (6, 2)).astype(np.float32),
    }
    EpisodeStore.from_arrays(tmp_path / "s.zarr", [episode], control_hz=10)
    line = [
        f"data={tmp_path}/s.zarr", f"out={tmp_path}/run", "encoder=vision", "policy.pred_horizon=8",
        "policy.action_horizon=4", "policy.network.width=32", "policy.sampler.steps=2",
        "trainer.batch_size=2", "trainer.warmup=1", "validation=0",
    ]  # fmt: skip
    running = prepare(parse(TrainConfig, compose("train", line), "train"), progress=False)
    camera: Any = running.policy.get_submodule("encoder.cameras.0")
    assert isinstance(camera.backbone, ResNet18)
    assert camera.keypoints.out_channels == 32
    began = {name: value.clone() for name, value in camera.named_parameters()}
    loss, _ = running._update()
    assert torch.isfinite(loss)
    still = [name for name, value in camera.named_parameters() if torch.equal(value, began[name])]
    assert not set(still) - {"keypoints.bias"}  # spatial softmax does not see it
    seen = {"top_image": episode["top_image"][None, :2], "pose": episode["pose"][None, :2]}
    actions = running.average.sample(seen).actions
    assert actions.shape == (1, 1, 8, 2)
    assert np.isfinite(actions).all()


@pytest.mark.slow
def test_a_policy_learns_from_pixels_alone(tmp_path: Path) -> None:
    """Collected in two calls, trained through the script, measured; then its frozen eyes in a new policy."""
    task = pixel_task(noise=0.1)
    collect(task, tmp_path / "p.zarr", episodes=20, workers=0, progress=False)
    collect(task, tmp_path / "p.zarr", episodes=200, workers=0, progress=False)
    store = EpisodeStore.open(tmp_path / "p.zarr")
    assert store.shape_of("top_image") == ((64, 64, 3), np.dtype(np.uint8))
    line = [
        f"data={tmp_path}/p.zarr", "encoder=vision_small", "policy.encoder.keypoints=8",
        "policy.encoder.channels=[16,32]", "policy.obs_horizon=1", "policy.pred_horizon=8",
        "policy.action_horizon=4", "policy.network.width=128", "policy.train_steps=20",
        "policy.sampler.steps=4", "trainer.batch_size=64", "trainer.warmup=20", "trainer.learning_rate=2e-3",
    ]  # fmt: skip
    run("train", *line, "trainer.steps=500", f"out={tmp_path}/seeing")
    policy = load(tmp_path / "seeing")
    assert set(policy.spec.observations) == {"position", "top_image"}
    table = evaluate(PolicyActor(policy), task, episodes=20, workers=0, progress=False)
    assert table.success_rate > 0.6, table.summary()
    frozen = [f"policy.encoder.weights={tmp_path}/seeing", "policy.encoder.frozen=true"]
    run("train", *line, *frozen, "trainer.steps=300", f"out={tmp_path}/frozen")
    again = load(tmp_path / "frozen")
    cameras = [dict(p.get_submodule("encoder.cameras").named_parameters()) for p in (policy, again)]
    assert all(torch.equal(cameras[0][name], cameras[1][name]) for name in cameras[0])
    table = evaluate(PolicyActor(again), task, episodes=20, workers=0, progress=False)
    assert table.success_rate > 0.6, table.summary()
    with pytest.raises(CheckpointError, match=r"backbone\S+ is missing"):
        load_cameras(make_policy(), str(tmp_path / "seeing"))
