"""The two-mode toy for every family: ``python -m robopolicy.evaluation.two_modes [<file.json>]``.

Half of the demonstrations go left, half go right, from the same observation. A chunk is of a mode if all its
entries are near that mode's; every other one is an average that no demonstrator would take.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from robopolicy.codecs import Codec, CodecConfig
from robopolicy.data.windows import Batch
from robopolicy.evaluation.machine import print_and_write, stamp
from robopolicy.policies.policy import Policy
from robopolicy.registry import build
from robopolicy.spec import ActionSpec, ObservationSpec, Spec

__all__ = ["FAMILIES", "learn", "main", "two_modes"]

FAMILIES: dict[str, tuple[dict[str, Any], tuple[dict[str, Any], ...]]] = {
    "gaussian": ({"name": "gaussian"}, ()),
    "gmm": ({"name": "gmm"}, ()),
    "diffusion": ({"name": "diffusion"}, tuple({"steps": n} for n in (1, 2, 5, 10, 20))),
    "beso": ({"name": "beso"}, tuple({"steps": n} for n in (1, 2, 5, 10))),
    "energy_denoising": ({"name": "energy_denoising"}, tuple({"steps": n} for n in (1, 2, 5, 10, 20))),
    **{
        f"energy_published, {training}": (
            {"name": "energy_published", "training": training, **changes},
            tuple({"name": "descent", "steps": n} for n in (1, 2, 6, 20)),
        )
        for training, changes in (("noise", {}), ("noised_demo", {"train_steps": [1, 1]}), ("infonce", {}))
    },
}
"""Settings of each family, and the samplers that its weights are tried with; by default their own."""
_SPEC = Spec(
    observations={"state": ObservationSpec(shape=(3,))},
    action=ActionSpec(names=("x", "y"), low=(-1.0, -1.0), high=(1.0, 1.0)),
    control_hz=10,
)
_NEAR = 0.25


def two_modes(
    *, steps: int = 1000, batch: int = 256, samples: int = 1024, seeds: tuple[int, ...] = (0, 1, 2)
) -> dict[str, Any]:
    """Train every family and count what it samples; JSON-ready."""
    rows = []
    for name, (settings, samplers) in FAMILIES.items():
        trained = [_make(settings, seed) for seed in seeds]
        for policy, seed in zip(trained, seeds, strict=True):
            learn(policy, torch.Generator().manual_seed(seed), steps=steps, batch=batch, rate=1e-3)
        for sampler in samplers or (None,):
            tried = [policy.with_sampler(sampler) if sampler else policy for policy in trained]
            counted = [_count(policy, seed, samples) for policy, seed in zip(tried, seeds, strict=True)]
            rows.append({"policy": name, "sampler": sampler, "seeds": counted})
    return {"steps": steps, "batch": batch, "samples": samples, "near": _NEAR, "rows": rows, **stamp()}


def _make(settings: dict[str, Any], seed: int) -> Policy:
    """With a network of width 128."""
    torch.manual_seed(seed)
    by_itself = settings["name"] in ("gaussian", "gmm")
    size = {"width": 128} if by_itself else {"network": {"name": "mlp", "width": 128}}
    policy: Policy = build("policy", {**settings, **size}, spec=_SPEC, codec=Codec(CodecConfig(), _SPEC))
    return policy


def learn(policy: Policy, generator: torch.Generator, *, steps: int, batch: int, rate: float) -> None:
    """Train a policy on chunks that are 1 or -1 throughout; its weights are not averaged."""
    optimizer = torch.optim.AdamW(policy.parameters(), rate)
    seen = _observation(policy, batch)
    for _ in range(steps):
        side = torch.where(torch.rand(batch, 1, 1, generator=generator) < 0.5, -1.0, 1.0)
        chunks = side.expand(batch, policy.pred_horizon, policy.spec.action.size)
        loss, _ = policy(Batch(observation=seen, action=chunks), generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()


def _count(policy: Policy, seed: int, samples: int) -> dict[str, float]:
    """Shares of the samples in each mode, and what a chunk costs."""
    made = policy.sample(_observation(policy, samples), generator=torch.Generator().manual_seed(seed + 1))
    chunks = torch.as_tensor(made.actions[:, 0]).flatten(1)
    left, right = (float(((chunks - side).abs() < _NEAR).all(1).float().mean()) for side in (-1.0, 1.0))
    return {"left": left, "right": right, "calls": made.calls}


def _observation(policy: Policy, batch: int) -> dict[str, Tensor]:
    shapes = policy.spec.observations
    return {key: torch.zeros(batch, policy.obs_horizon, *o.shape) for key, o in shapes.items()}


def main(arguments: list[str]) -> None:
    """Measure and print, or write to a file."""
    if len(arguments) > 1:
        raise SystemExit("usage: python -m robopolicy.evaluation.two_modes [<file.json>]")
    print_and_write(two_modes(), arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
