"""Noise authority: how much of what a policy does its noise decides, and so whoever chooses the noise.

It falls as a policy is trained: one that has all but one way to act cannot be steered by its noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from tqdm import tqdm

from robopolicy.errors import ConfigError
from robopolicy.policies.policy import Policy

__all__ = ["LEAST_AUTHORITY", "PROBES", "noise_authority", "report_authority", "truncated_normal"]

LEAST_AUTHORITY = 0.02
PROBES = 64
"""Noises for each observation when authority is measured."""


def truncated_normal(
    shape: tuple[int, ...], bound: float, generator: torch.Generator, device: torch.device
) -> Tensor:
    """N(0, I) given that every entry lies within +-bound, by its inverse distribution function."""
    mass = math.erf(bound / math.sqrt(2))
    uniform = 2 * torch.rand(shape, generator=generator, device=device) - 1
    return (math.sqrt(2) * torch.erfinv(mass * uniform)).clamp(-bound, bound)


@torch.no_grad()
def noise_authority(
    policy: Policy, observation: dict[str, Tensor], bound: float, generator: torch.Generator
) -> Tensor:
    """How far the noise moves what is executed, `[Dz]`: 0 is not at all, NaN where the data does not vary.

    The deviation over 64 noises, relative to half the range of the data; rows and observations averaged.
    """
    batch = len(next(iter(observation.values())))
    noise = truncated_normal((batch, PROBES, *policy.noise_shape), bound, generator, policy.device)
    executed = slice(policy.obs_horizon - 1, policy.obs_horizon - 1 + policy.action_horizon)
    actions = policy.sample(observation, n=PROBES, noise=noise).actions[:, :, executed]
    rows = {key: value[:, -1:].repeat_interleave(PROBES, 0) for key, value in observation.items()}
    code = policy.codec.encode_action(actions.flatten(0, 1), rows).unflatten(0, (batch, PROBES))
    low, high = policy.codec.action_bounds()
    half = (high - low) / 2
    spread = code.std(1).mean((0, 1)) / half
    return torch.where(half > policy.codec.config.range_eps / 2, spread, torch.nan)


def report_authority(authority: Tensor, *, force: bool) -> None:
    """Print it; without enough of it there is nothing that noise could be chosen for.

    Raises:
        ConfigError: on average it is below 0.02 and `force` is not set, or no action varies in the data.
    """
    shown = ", ".join("-" if math.isnan(value) else f"{value:.3f}" for value in authority.tolist())
    average = float(authority.nanmean())
    tqdm.write(f"Noise authority (spread of executed actions over the data's half range): {shown}")
    if math.isnan(average):
        raise ConfigError("No action of this policy's data varies: there is nothing for noise to move.")
    if average >= LEAST_AUTHORITY:
        return
    message = (
        f"The noise hardly moves this policy's actions: authority {average:.4f} on average, below "
        f"{LEAST_AUTHORITY}. It has all but one way to act, and DSRL chooses among ways. Trained for fewer "
        "steps, or on less uniform demonstrations, it would have more."
    )
    if not force:
        raise ConfigError(f"{message} Set force=true to go on all the same, or take method=dppo or residual.")
    tqdm.write(f"Warning: {message}")
