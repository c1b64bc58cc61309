"""The codec of a policy: everything between the robot's units and the network's, kept in the checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from robopolicy.codecs.action import ActionTransform
from robopolicy.errors import ConfigError, DataError, unknown
from robopolicy.spec import Spec

__all__ = ["NORMALIZERS", "QUANTILE_ROWS", "Codec", "CodecConfig", "Normalizer"]

Normalizer = Literal["minmax", "quantile", "zscore", "identity"]
NORMALIZERS = ("minmax", "quantile", "zscore", "identity")
QUANTILE_ROWS = 200_000


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """How observations and actions are encoded."""

    observation: Normalizer = "minmax"
    action: Normalizer = "minmax"
    keys: Mapping[str, str] = field(default_factory=dict)
    """Normaliser for single observation keys, over `observation`."""
    representation: Literal["absolute", "delta", "relative"] = "absolute"
    rot6d: bool = True
    """Model rotations as six numbers (whatever the representation of the action itself)."""
    range_eps: float = 1e-4
    """A dimension that varies less than this over the data is only shifted, never scaled."""
    observation_clip: float | None = None
    """Clip encoded states to +-this; clipped values are counted in `Codec.clipped`."""

    def __post_init__(self) -> None:
        for key, name in self.keys.items():
            if name not in NORMALIZERS:
                raise ConfigError(f"codec.keys.{key}: " + unknown("normaliser", name, NORMALIZERS))
        if self.observation_clip is not None and self.observation_clip <= 0:
            raise ConfigError(f"codec.observation_clip must be positive, got {self.observation_clip}.")


class Codec(nn.Module):
    """Per key an affine map ``(x - center) * scale``; for actions the representation comes first.

    Arithmetic is float64 inside; `encode_*` answer float32 unless given float64. Images are mapped from
    uint8 to [-1, 1]; where an encoder's cached features or a text's tokens stand instead, they stay.
    """

    clipped: Tensor

    def __init__(self, config: CodecConfig, spec: Spec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.transform = ActionTransform(spec, config.representation, config.rot6d)
        self.states = [key for key, o in spec.observations.items() if o.kind == "state"]
        self.images = [key for key, o in spec.observations.items() if o.kind == "image"]
        self.texts = [key for key, o in spec.observations.items() if o.kind == "text"]
        for key in config.keys:
            if key not in self.states:
                raise ConfigError("codec.keys: " + unknown("state observation", key, self.states))
        for key in self.states:
            shape = spec.observations[key].shape
            self.register_buffer(_slot("center", key), torch.zeros(shape, dtype=torch.float64))
            self.register_buffer(_slot("scale", key), torch.ones(shape, dtype=torch.float64))
        size = self.transform.size
        for name, start in (("center", 0.0), ("scale", 1.0), ("low", -1.0), ("high", 1.0)):
            self.register_buffer(f"action_{name}", torch.full((size,), start, dtype=torch.float64))
        self.register_buffer("clipped", torch.zeros((), dtype=torch.int64), persistent=False)

    @property
    def action_size(self) -> int:
        """Dz, the number of dimensions the network models for each action."""
        return self.transform.size

    def fit(self, batches: Iterable[tuple[Mapping[str, Tensor], Tensor]]) -> None:
        """Statistics from windows: (observation ``[B, To, ...]``, action ``[B, Tp, Da]``) pairs."""
        states: dict[str, list[Tensor]] = {key: [] for key in self.states}
        actions = []
        for observation, action in batches:
            double = {k: observation[k].double() for k in self.states}
            for key in self.states:
                states[key].append(double[key][:, -1])
            actions.append(self.transform.encode(action.double(), double).flatten(0, 1))
        if not actions:
            raise DataError("Cannot fit a codec: there is no training window.")
        for key in self.states:
            name = self.config.keys.get(key, self.config.observation)
            center, scale = _affine(torch.cat(states[key]), name, self.config.range_eps)
            self.get_buffer(_slot("center", key)).copy_(center)
            self.get_buffer(_slot("scale", key)).copy_(scale)
        values = torch.cat(actions)
        center, scale = _affine(values, self.config.action, self.config.range_eps)
        encoded = (values - center) * scale
        for buffer, value in (
            ("action_center", center),
            ("action_scale", scale),
            ("action_low", encoded.amin(0)),
            ("action_high", encoded.amax(0)),
        ):
            self.get_buffer(buffer).copy_(value)

    def encode_observation(self, observation: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`[B, To, ...]` in the robot's units to the network's.

        Raises:
            DataError: a key of the spec is missing, or an unknown one is present.
        """
        expected = {*self.states, *self.images, *self.texts}
        if missing := expected - observation.keys():
            raise DataError(f"Observation lacks {sorted(missing)}; given: {sorted(observation)}.")
        if extra := observation.keys() - expected:
            raise DataError(unknown("observation", min(extra), expected))
        encoded: dict[str, Tensor] = {}
        for key in self.states:
            value = observation[key].double()
            value = (value - self.get_buffer(_slot("center", key))) * self.get_buffer(_slot("scale", key))
            if (limit := self.config.observation_clip) is not None:
                self.clipped += (value.abs() > limit).sum()
                value = value.clamp(-limit, limit)
            encoded[key] = value.to(_working(observation[key]))
        for key in self.images:
            encoded[key] = self.encode_image(observation[key])
        return encoded | {key: observation[key] for key in self.texts}

    def encode_image(self, picture: Tensor) -> Tensor:
        """uint8 pictures to [-1, 1]; features, which are not uint8, stay."""
        return picture.float() / 127.5 - 1.0 if picture.dtype == torch.uint8 else picture

    def encode_action(self, action: Tensor, observation: Mapping[str, Tensor]) -> Tensor:
        """`[B, Tp, Da]` in the robot's units to `[B, Tp, Dz]`; `observation` is the unencoded history."""
        double = {key: observation[key].double() for key in self.states}
        value = self.transform.encode(action.double(), double)
        value = (value - self.get_buffer("action_center")) * self.get_buffer("action_scale")
        return value.to(_working(action))

    def decode_action(self, code: Tensor, observation: Mapping[str, Tensor]) -> Tensor:
        """`[B, Tp, Dz]` to `[B, Tp, Da]` in the robot's units."""
        double = {key: observation[key].double() for key in self.states}
        value = code.double() / self.get_buffer("action_scale") + self.get_buffer("action_center")
        return self.transform.decode(value, double).to(_working(code))

    def action_bounds(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest encoded action seen in the data, float32 `[Dz]`: the sampler's clip bounds."""
        return self.get_buffer("action_low").float(), self.get_buffer("action_high").float()


def _slot(name: str, key: str) -> str:
    return f"{name}/{key.replace('.', '|')}"  # a module's buffers may not have dots in their names


def _working(value: Tensor) -> torch.dtype:
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def _affine(values: Tensor, normalizer: str, eps: float) -> tuple[Tensor, Tensor]:
    """Center and scale `[...]` of values `[N, ...]`."""
    if normalizer == "identity":
        return torch.zeros_like(values[0]), torch.ones_like(values[0])
    if normalizer == "zscore":
        center, spread = values.mean(0), values.std(0, correction=0)
        scale = torch.where(spread < eps, torch.ones_like(spread), 1 / spread.clamp_min(1e-300))
        return center, scale
    if normalizer == "quantile":
        rows = values[:: -(-len(values) // QUANTILE_ROWS)]
        low, high = torch.quantile(rows, 0.01, dim=0), torch.quantile(rows, 0.99, dim=0)
    else:
        low, high = values.amin(0), values.amax(0)
    span = high - low
    flat = span < eps
    scale = torch.where(flat, torch.ones_like(span), 2 / span.clamp_min(1e-300))
    return torch.where(flat, low, (low + high) / 2), scale
