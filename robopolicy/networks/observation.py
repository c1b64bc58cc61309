"""From encoded observations to the condition: encoders of states, and of an instruction beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robopolicy.errors import ConfigError
from robopolicy.registry import build, register
from robopolicy.spec import Kind, Spec

__all__ = ["EncoderConfig", "ObservationEncoder", "StateEncoder", "StatesEncoder"]


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """What every encoder has."""

    text: Mapping[str, Any] | None = None
    """Text encoder of the instruction (``{"name": "hashed"}``); with one, the policy needs an instruction."""


class ObservationEncoder(nn.Module):
    """Encodes the observations of every step: ``{key: [B, To, ...]}`` to `[B, To, size]`.

    A text encoder's tokens `[B, ...]` come under the text's key; its features are the same at every step.
    """

    reads: tuple[Kind, ...] = ("state",)

    def __init__(self, config: EncoderConfig, *, spec: Spec) -> None:
        """Raises ConfigError for observations that this encoder does not read."""
        super().__init__()
        self.config = config
        kinds = {key: spec.observations[key].kind for key in sorted(spec.observations)}
        self.states = [key for key, kind in kinds.items() if kind == "state"]
        self.images = [key for key, kind in kinds.items() if kind == "image"]
        self.texts = [key for key, kind in kinds.items() if kind == "text"]
        if self.images and "image" not in self.reads:
            raise ConfigError(
                f"This encoder reads no images, and {self.images} are. Choose encoder=vision or "
                "encoder=vision_small, or state observations with observations=[...]."
            )
        if bool(self.texts) != (config.text is not None):
            raise ConfigError(
                f"The text observations are {self.texts or 'none'} and the text encoder is {config.text}: "
                "give both, or neither (policy.encoder.text={name: hashed} adds the instruction)."
            )
        self.text: Any = build("text_encoder", config.text) if config.text is not None else None
        self.size = sum(math.prod(spec.observations[key].shape) for key in self.states)
        if self.text is not None:
            self.size += len(self.texts) * self.text.size

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """What stands for B texts in a batch: `[B, ...]`, as the text encoder wants it."""
        return self.text.tokens(texts)

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        """`[B, To, ...]` for each key to `[B, To, size]`."""
        parts = [*self.pictures(observation), *(observation[key].flatten(2) for key in self.states)]
        if not parts:
            raise ConfigError("A policy needs a state or an image beside its instruction.")
        for key in self.texts:
            features: Tensor = self.text(observation[key])
            parts.append(features[:, None].expand(-1, parts[0].shape[1], -1))
        return torch.cat(parts, -1)

    def pictures(self, observation: Mapping[str, Tensor]) -> list[Tensor]:
        """Features `[B, To, F]` of every image."""
        del observation
        return []


@register("encoder", "state")
class StatesEncoder(ObservationEncoder):
    """Concatenates the states, in the order of their names."""

    def __init__(self, config: EncoderConfig, *, spec: Spec) -> None:
        super().__init__(config, spec=spec)


class StateEncoder(ObservationEncoder):
    """The states alone, for policies without a choice of encoder."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(EncoderConfig(), spec=spec)
