"""Several fields as one: weighted sums of displacements, classifier-free guidance, other normalisers.

Displacements ``v = D(x) - x`` are what adds up (they are sigma^2 times scores): ``D = x + sum_i w_i v_i``.
The sum of scores of noised data is not the score of the noised product, so without a Langevin corrector no
solver samples the product; with one, `Corrector(steps=20)` say, it does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robopolicy.codecs import Codec
from robopolicy.diffusion.denoiser import Denoiser
from robopolicy.errors import ConfigError

__all__ = ["UNLIKE", "change_of_normaliser", "composed", "guided", "renormalised"]

UNLIKE = 2.0
"""A displacement is stretched by this squared at most: Langevin steps of eta < 0.5 stay stable."""


def composed(denoisers: Sequence[Denoiser], weights: Sequence[float]) -> Denoiser:
    """The denoiser of ``prod_i p_i ** w_i``; those of weight 0 are never asked.

    Raises:
        ConfigError: numbers of denoisers and weights that differ, or nothing but zeros.
    """
    if len(denoisers) != len(weights) or not any(weights):
        raise ConfigError(
            f"Composition needs a weight for each field, one of them not 0: got {len(denoisers)} fields and "
            f"weights {list(weights)}."
        )
    used = [(denoiser, weight) for denoiser, weight in zip(denoisers, weights, strict=True) if weight]
    rest = 1.0 - sum(weight for _, weight in used)
    if len(used) == 1 and rest == 0:
        return used[0][0]

    def estimate(x: Tensor, sigma: Tensor) -> Tensor:
        total = rest * x
        for denoiser, weight in used:
            total = torch.add(total, denoiser(x, sigma), alpha=weight)
        return total

    return estimate


def guided(conditional: Denoiser, unconditional: Denoiser, weight: float) -> Denoiser:
    """Classifier-free guidance (Ho & Salimans 2022): weight 1 is `conditional` itself, more is stronger."""
    return composed([unconditional, conditional], [1.0 - weight, weight])


def change_of_normaliser(own: Codec, other: Codec) -> tuple[Tensor, Tensor]:
    """scale and shift, float32 `[Dz]`, with ``other code = scale * own code + shift``.

    Raises:
        ConfigError: codecs that differ in more than the normalisation of actions.
    """
    for name in ("representation", "rot6d"):
        ours, theirs = getattr(own.config, name), getattr(other.config, name)
        if ours != theirs:
            raise ConfigError(f"Codecs with different {name} do not compose: {ours!r} and {theirs!r}.")
    if own.action_size != other.action_size:
        raise ConfigError(f"Codecs of {own.action_size} and {other.action_size} dimensions do not compose.")
    scale = other.get_buffer("action_scale") / own.get_buffer("action_scale")
    shift = (own.get_buffer("action_center") - other.get_buffer("action_center")) * other.get_buffer(
        "action_scale"
    )
    return scale.float(), shift.float()


def renormalised(denoiser: Denoiser, scale: Tensor, shift: Tensor) -> Denoiser:
    """A denoiser of ``other = scale * own + shift`` (scale, shift `[Dz]`) as one of own codes.

    Exact where the scales are equal. Where they differ, noise that is alike in all dimensions of one code is
    not in the other: the denoiser is asked at the geometric mean of its noise levels, and its score is
    translated. The scores agree as the noise vanishes, which is what a Langevin corrector needs.

    Raises:
        ConfigError: scales so different that a dimension would be moved past its goal.
    """
    middle = scale.abs().log().mean().exp()
    if bool((scale.abs() > UNLIKE * middle).any()):
        raise ConfigError(
            f"These normalisers differ too much between dimensions to compose (scales {scale.tolist()}, some "
            f"more than {UNLIKE:g} times their mean); train the policies with one codec."
        )

    def estimate(x: Tensor, sigma: Tensor) -> Tensor:
        there = torch.addcmul(shift, scale, x)
        displacement = denoiser(there, sigma * middle) - there
        return torch.addcmul(x, scale / middle**2, displacement)

    return estimate
