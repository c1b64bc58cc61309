"""A robot on a plane whose actions are positions, and a policy with a field in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robopolicy.codecs import Codec, CodecConfig
from robopolicy.diffusion.denoiser import Denoiser
from robopolicy.policies.diffusion import DiffusionPolicy
from robopolicy.registry import build
from robopolicy.spec import ActionPart, ActionSpec, ObservationSpec, Spec
from tests.diffusion.gaussians import gaussian
from tests.policies.toys import make

NETWORK = {"name": "mlp", "width": 32, "blocks": 1, "embedding": 16}
HELD = Spec(
    observations={
        "place": ObservationSpec(shape=(2,)),
        "odd": ObservationSpec(shape=(3,)),
        "stone": ObservationSpec(shape=(4,)),
    },
    action=ActionSpec(
        names=("x", "y"),
        low=(-1.0, -1.0),
        high=(1.0, 1.0),
        representation="ee_position",
        parts=(ActionPart(kind="position", size=2, reference="place"),),
    ),
    control_hz=10,
)
DEVIATION = 0.3


def wandering(spec: Spec = HELD, **settings: Any) -> DiffusionPolicy:
    """A policy whose rows go a tenth to the right each, from where it is, with a deviation of 0.3."""
    policy = make("diffusion", spec=spec, network=NETWORK, clip=False, **settings)
    assert isinstance(policy, DiffusionPolicy)

    def denoiser(condition: Tensor) -> Denoiser:
        ahead = torch.stack([0.1 * torch.arange(policy.pred_horizon), torch.zeros(policy.pred_horizon)], 1)
        first = sum(spec.observations[key].shape[0] for key in spec.observations if key < "place")
        return gaussian(condition[:, -1:, first : first + 2] + ahead, DEVIATION)

    policy.denoiser = denoiser  # type: ignore[method-assign]
    return policy


def strolling(spec: Spec, deviation: float) -> DiffusionPolicy:
    """A policy that goes up from its observation "position", 1.5 cm a row."""
    torch.manual_seed(0)
    codec = Codec(CodecConfig(observation="identity", action="identity"), spec)
    config = {"name": "diffusion", "network": NETWORK, "clip": False}
    policy = build("policy", config, spec=spec, codec=codec)
    assert isinstance(policy, DiffusionPolicy)
    first = sum(spec.observations[key].shape[0] for key in spec.observations if key < "position")
    ahead = torch.stack([torch.zeros(16), 0.015 * torch.arange(16)], 1)

    def denoiser(condition: Tensor) -> Denoiser:
        return gaussian(condition[:, -1:, first : first + 2] + ahead, deviation)

    policy.denoiser = denoiser  # type: ignore[method-assign]
    return policy
