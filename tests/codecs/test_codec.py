from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from robopolicy.codecs import Codec, CodecConfig
from robopolicy.codecs.codec import NORMALIZERS, Normalizer
from robopolicy.codecs.rotation import to_matrix
from robopolicy.errors import ConfigError, DataError
from robopolicy.spec import ActionPart, ActionSpec, ObservationSpec, Spec

POSE = Spec(
    observations={
        "position": ObservationSpec(shape=(3,)),
        "orientation": ObservationSpec(shape=(4,), rotation="quat_xyzw"),
        "constant": ObservationSpec(shape=(2,)),
    },
    action=ActionSpec(
        names=("x", "y", "z", "rx", "ry", "rz", "gripper"),
        low=(-1.0,) * 7,
        high=(1.0,) * 7,
        representation="ee_pose",
        parts=(
            ActionPart(kind="position", size=3, reference="position"),
            ActionPart(kind="rotation", size=3, rotation="axis_angle", reference="orientation"),
            ActionPart(kind="gripper", size=1),
        ),
    ),
    control_hz=20,
)
Data = tuple[dict[str, Tensor], Tensor]


def windows(dtype: torch.dtype, batch: int = 300, scale: float = 1.0, offset: float = 0.0) -> Data:
    rng = np.random.default_rng(0)
    axis = rng.normal(size=(batch, 5, 3))
    axis *= rng.uniform(0, math.pi - 0.01, size=(batch, 5, 1)) / np.linalg.norm(axis, axis=-1, keepdims=True)
    action = np.concatenate(
        [rng.normal(size=(batch, 5, 3)) * scale + offset, axis, rng.choice([-1.0, 1.0], size=(batch, 5, 1))],
        -1,
    )
    quaternion = rng.normal(size=(batch, 2, 4))
    quaternion /= np.linalg.norm(quaternion, axis=-1, keepdims=True)
    observation = {
        "position": rng.normal(size=(batch, 2, 3)) * scale + offset,
        "orientation": quaternion,
        "constant": np.full((batch, 2, 2), 3.0),
    }
    return {k: torch.tensor(v, dtype=dtype) for k, v in observation.items()}, torch.tensor(
        action, dtype=dtype
    )


@pytest.mark.parametrize("representation", ["absolute", "delta", "relative"])
@pytest.mark.parametrize("normalizer", ["minmax", "quantile", "zscore", "identity"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("rot6d", [True, False])
def test_decode_inverts_encode(
    representation: str, normalizer: str, dtype: torch.dtype, tolerance: float, rot6d: bool
) -> None:
    config = CodecConfig(action=normalizer, representation=representation, rot6d=rot6d)  # type: ignore[arg-type]
    codec = Codec(config, POSE)
    observation, action = windows(dtype)
    codec.fit([(observation, action)])
    back = codec.decode_action(codec.encode_action(action, observation), observation)
    assert back.dtype == dtype
    # Rotations near pi may come back as the other axis: compare what they mean.
    flat = back - action
    turned = to_matrix(back[..., 3:6].double(), "axis_angle") - to_matrix(
        action[..., 3:6].double(), "axis_angle"
    )
    assert flat[..., [0, 1, 2, 6]].abs().max() / action.abs().max() < tolerance
    assert turned.abs().max() < tolerance


def test_round_trip_survives_large_offsets() -> None:
    codec = Codec(CodecConfig(), POSE)
    observation, action = windows(torch.float64, scale=1e-2, offset=1e4)
    codec.fit([(observation, action)])
    back = codec.decode_action(codec.encode_action(action, observation), observation)
    assert ((back - action) / action).abs()[..., :3].max() < 1e-12


def test_minmax_maps_data_to_unit_range_and_leaves_constants_alone() -> None:
    codec = Codec(CodecConfig(), POSE)
    observation, action = windows(torch.float32)
    codec.fit([(observation, action)])
    encoded = codec.encode_action(action, observation).flatten(0, 1)
    assert torch.allclose(encoded.amax(0), torch.ones(10), atol=1e-5)
    assert torch.allclose(encoded.amin(0), -torch.ones(10), atol=1e-5)
    constant = codec.encode_observation({**observation, "constant": observation["constant"] + 0.5})[
        "constant"
    ]
    assert torch.allclose(constant, torch.full_like(constant, 0.5), atol=1e-6)


def test_relative_actions_do_not_change_when_the_world_moves() -> None:
    codec = Codec(CodecConfig(representation="relative", action="identity"), POSE)
    observation, action = windows(torch.float64, batch=20)
    before = codec.encode_action(action, observation)
    turn = to_matrix(torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64), "axis_angle")
    shift = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    from robopolicy.codecs.rotation import from_matrix

    moved = dict(observation)
    moved["position"] = observation["position"] @ turn.T + shift
    moved["orientation"] = from_matrix(turn @ to_matrix(observation["orientation"], "quat_xyzw"), "quat_xyzw")
    world = torch.cat(
        [
            action[..., :3] @ turn.T + shift,
            from_matrix(turn @ to_matrix(action[..., 3:6], "axis_angle"), "axis_angle"),
            action[..., 6:],
        ],
        -1,
    )
    assert torch.allclose(codec.encode_action(world, moved), before, atol=1e-9)


@pytest.mark.parametrize("representation", ["absolute", "delta", "relative"])
def test_decoding_any_network_output_is_finite(representation: str) -> None:
    codec = Codec(CodecConfig(representation=representation), POSE)  # type: ignore[arg-type]
    observation, action = windows(torch.float32)
    codec.fit([(observation, action)])
    wild = torch.cat([torch.zeros(100, 5, 10), torch.randn(100, 5, 10) * 50, torch.full((100, 5, 10), 1e6)])
    decoded = codec.decode_action(wild, observation)
    assert torch.isfinite(decoded).all()
    assert decoded[..., 3:6].norm(dim=-1).max() <= math.pi + 1e-5


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_bounds_of_actions_are_those_of_the_encoded_data(normalizer: Normalizer) -> None:
    codec = Codec(CodecConfig(action=normalizer), POSE)
    assert [bound.tolist() for bound in codec.action_bounds()] == [[-1.0] * 10, [1.0] * 10]  # not fitted yet
    observation, action = windows(torch.float64, scale=3.0, offset=5.0)
    halves = [slice(150), slice(150, 300)]
    codec.fit([({key: value[half] for key, value in observation.items()}, action[half]) for half in halves])
    low, high = codec.action_bounds()
    assert low.dtype == high.dtype == torch.float32
    encoded = codec.encode_action(action, observation).float().flatten(0, 1)
    torch.testing.assert_close(low, encoded.amin(0))
    torch.testing.assert_close(high, encoded.amax(0))
    for bound, raw in ((low, action.amin((0, 1))), (high, action.amax((0, 1)))):  # back in the robot's units
        decoded = codec.decode_action(bound[None, None].double(), observation)[0, 0]
        torch.testing.assert_close(decoded[[0, 1, 2, 6]], raw[[0, 1, 2, 6]], rtol=1e-5, atol=1e-5)
    if normalizer == "minmax":
        torch.testing.assert_close(high, torch.ones(10))
    if normalizer == "zscore":  # some deviations from the mean, on both sides
        assert (low[:3] < -2).all()
        assert (high[:3] > 2).all()


def test_missing_and_unknown_observations_are_named() -> None:
    codec = Codec(CodecConfig(), POSE)
    observation, _ = windows(torch.float32, batch=2)
    with pytest.raises(DataError, match="constant"):
        codec.encode_observation({k: v for k, v in observation.items() if k != "constant"})
    with pytest.raises(DataError, match="positon"):
        codec.encode_observation({**observation, "positon": observation["position"]})


def test_clipping_is_counted() -> None:
    codec = Codec(CodecConfig(observation_clip=1.5), POSE)
    observation, action = windows(torch.float32)
    codec.fit([(observation, action)])
    far = {**observation, "position": observation["position"] + 100}
    assert codec.encode_observation(far)["position"].abs().max() <= 1.5
    assert int(codec.clipped) == observation["position"].numel()


def test_relative_actions_need_a_reference() -> None:
    spec = Spec.from_arrays({"s": np.zeros((3, 2))}, np.zeros((3, 2)), control_hz=10)
    with pytest.raises(ConfigError, match="current value"):
        Codec(CodecConfig(representation="relative"), spec)


def test_unknown_normaliser_is_refused() -> None:
    with pytest.raises(ConfigError, match="minmax"):
        CodecConfig(keys={"position": "minimax"})
