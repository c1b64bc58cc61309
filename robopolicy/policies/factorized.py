"""FDP (Patil et al., ICRA 2026, arXiv 2509.16830): prioritised modalities first, the others as a residual."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from robopolicy.codecs import Codec, CodecConfig
from robopolicy.device import reduced
from robopolicy.errors import ConfigError
from robopolicy.learning.checkpoint import load
from robopolicy.networks.residual import BlockResidual, OutputResidual
from robopolicy.policies.diffusion import DiffusionConfig, DiffusionPolicy
from robopolicy.registry import build, parse, plain, register, to_dict
from robopolicy.spec import Spec

__all__ = ["SHARED", "FactorizedConfig", "FactorizedPolicy", "modality_groups"]

SHARED = (
    "obs_horizon",
    "pred_horizon",
    "action_horizon",
    "train_steps",
    "schedule",
    "prediction",
    "clip",
)
"""Settings that base and residual must agree on."""


@dataclass(frozen=True, kw_only=True)
class FactorizedConfig(DiffusionConfig):
    """Diffusion's settings, for the residual; they must be those that the base was trained with."""

    base: str | Mapping[str, Any] | None = None
    """Run or checkpoint of a diffusion policy that saw the prioritised groups. A checkpoint of this policy
    holds the base's description instead, and its weights beside its own."""
    priority: tuple[str, ...] = ()
    """Modality groups, most important first; the base's come first. By default those, then the others."""
    composition: Literal["blocks", "output"] = "blocks"
    """Add the residual to the base block by block, or to its output only (an ablation)."""


@register("policy", "factorized")
class FactorizedPolicy(DiffusionPolicy):
    """A frozen base on the prioritised groups, and a residual on all of them that starts at zero.

    The base keeps its encoder, averaged weights, statistics and evaluation mode. Actions are normalised as it
    normalises them.
    """

    def __init__(self, config: FactorizedConfig, *, spec: Spec, codec: Codec) -> None:
        base = _base(config.base)
        _check(config, base, spec, codec)
        order = _priority(config.priority, base.spec, spec)
        super().__init__(config, spec=spec, codec=codec)
        self.config: FactorizedConfig = dataclasses.replace(config, base=_describe(base), priority=order)
        self.provenance = base.provenance
        for name in ("action_center", "action_scale", "action_low", "action_high"):
            codec.get_buffer(name).copy_(base.codec.get_buffer(name))
        seen: Any = base.encoder.size, self.encoder.size
        sizes = (codec.action_size, *seen)
        if config.composition == "output":
            self.network: BlockResidual | OutputResidual = OutputResidual(self.network, sizes)
        else:
            self.network = BlockResidual(
                base.network,
                self.network,
                horizon=config.pred_horizon,
                obs_horizon=config.obs_horizon,
                sizes=sizes,
            )
        self.base = base.requires_grad_(False).eval()

    @property
    def evaluations(self) -> int:
        """The base's network and the residual's."""
        return 2

    def condition(self, observation: Mapping[str, Tensor]) -> Tensor:
        """`[B, To, Db + Dc]`: the base's condition, then that of all groups."""
        known = self.base.condition({key: observation[key] for key in self.base.spec.observations})
        return torch.cat([known, super().condition(observation)], -1)

    def train(self, mode: bool = True) -> FactorizedPolicy:
        """Training mode for the residual; the base stays in evaluation mode."""
        super().train(mode)
        self.base.eval()
        return self

    def _network(self, x: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        with reduced(self.config.precision, x.device):
            output: Tensor = self.network(self.base.network, x, level, condition)
        return output


def _base(source: str | Mapping[str, Any] | None) -> DiffusionPolicy:
    if not source:
        raise ConfigError(
            "factorized needs policy.base=<run directory>: a diffusion policy trained on the prioritised "
            "groups (policy=diffusion observations=[...])."
        )
    if isinstance(source, str):
        policy = load(source)
    else:
        spec = Spec.from_dict(source["spec"])
        codec = Codec(parse(CodecConfig, source["codec"], "policy.base.codec"), spec)
        policy = build("policy", source["policy"], spec=spec, codec=codec)
    if not isinstance(policy, DiffusionPolicy) or isinstance(policy, FactorizedPolicy):
        raise ConfigError(f"policy.base must be a diffusion policy, {source} is a {type(policy).__name__}.")
    return policy


def _describe(base: DiffusionPolicy) -> dict[str, Any]:
    return {
        "policy": to_dict("policy", base),
        "spec": base.spec.to_dict(),
        "codec": plain(base.codec.config),
    }


def _check(config: FactorizedConfig, base: DiffusionPolicy, spec: Spec, codec: Codec) -> None:
    base.spec.require(spec, "data for the residual")
    pairs = [(name, getattr(config, name), getattr(base.config, name)) for name in SHARED]
    mine, theirs = codec.config, base.codec.config
    pairs += [
        (f"codec.{name}", getattr(mine, name), getattr(theirs, name)) for name in ("representation", "rot6d")
    ]
    if mine.representation != "absolute":
        names = [part.reference for part in spec.action.parts], [p.reference for p in base.spec.action.parts]
        pairs.append(("observations that actions refer to", *names))
    if base.codec.texts:
        pairs.append(("encoder.text", config.encoder.get("text"), base.config.encoder.get("text")))
    wrong = [f"{name}: {ours!r} here, {its!r} in the base" for name, ours, its in pairs if ours != its]
    if config.encoder.get("frozen") and base.codec.images:
        wrong.append("encoder.frozen: its cached features would replace the images that the base reads")
    if wrong:
        raise ConfigError("These settings do not go with the base:\n  - " + "\n  - ".join(wrong))


def _priority(order: Sequence[str], base: Spec, spec: Spec) -> tuple[str, ...]:
    """The whole order of groups, after checking that the base saw the first of them and not all."""
    first, every = tuple(modality_groups(base)), tuple(modality_groups(spec))
    rest = tuple(group for group in every if group not in first)
    if not rest:
        raise ConfigError(f"The base sees {list(first)}: no group is left for the residual.")
    if not order:
        return first + rest
    if unknown := sorted(set(order) - set(every)):
        raise ConfigError(
            f"policy.priority: no observation is of group {unknown}; the groups are {list(every)}."
        )
    if set(order[: len(first)]) != set(first):
        raise ConfigError(
            f"policy.priority={list(order)}, but the base saw {list(first)}: those must come first."
        )
    return tuple(dict.fromkeys([*order, *rest]))


def modality_groups(spec: Spec) -> dict[str, list[str]]:
    """Observation keys by modality group; an observation without one is a group by itself."""
    groups: dict[str, list[str]] = {}
    for key, observation in spec.observations.items():
        groups.setdefault(observation.group or key, []).append(key)
    return groups
