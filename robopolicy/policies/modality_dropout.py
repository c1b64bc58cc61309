"""Diffusion on all modalities at once, with whole groups dropped in training: what FDP is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from robopolicy.codecs import Codec
from robopolicy.errors import ConfigError
from robopolicy.policies.diffusion import DiffusionConfig, DiffusionPolicy
from robopolicy.policies.factorized import modality_groups
from robopolicy.registry import register
from robopolicy.spec import Spec

__all__ = ["ModalityDropoutConfig", "ModalityDropoutPolicy", "kept_groups"]


@dataclass(frozen=True, kw_only=True)
class ModalityDropoutConfig(DiffusionConfig):
    """Diffusion's settings, and how often a group is dropped."""

    drop: float = 0.3
    """Chance of each modality group to be zero throughout a training window; one group always stays."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.drop < 1:
            raise ConfigError(f"modality_dropout needs 0 <= drop < 1, got {self.drop}.")


@register("policy", "modality_dropout")
class ModalityDropoutPolicy(DiffusionPolicy):
    """Encoded observations of a dropped group are 0, the middle of the range that the codec maps to."""

    config: ModalityDropoutConfig

    def __init__(self, config: ModalityDropoutConfig, *, spec: Spec, codec: Codec) -> None:
        super().__init__(config, spec=spec, codec=codec)
        self.groups = modality_groups(spec)

    def condition(self, observation: Mapping[str, Tensor]) -> Tensor:
        """`[B, To, Dc]`; groups are dropped in training mode only."""
        encoded = self.codec.encode_observation(observation)
        if self.training:
            kept = kept_groups(len(next(iter(encoded.values()))), len(self.groups), self.config.drop)
            for keys, column in zip(self.groups.values(), kept.T, strict=True):
                for key in keys:
                    value = encoded[key]
                    weight = column.to(value)
                    encoded[key] = value * weight.view(-1, *[1] * (value.ndim - 1))
        condition: Tensor = self.encoder(encoded)
        return condition


def kept_groups(rows: int, groups: int, drop: float) -> Tensor:
    """Which groups stay, bool `[rows, groups]`: each is dropped by chance, but never all of a row."""
    kept = torch.rand(rows, groups) >= drop
    spared = torch.nn.functional.one_hot(torch.randint(groups, (rows,)), groups).bool()
    return kept | (spared & ~kept.any(1, keepdim=True))
