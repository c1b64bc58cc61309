"""The two-mode toy for every family: ``python -m robopolicy.evaluation.two_modes [<file.json>]``.

Half of the demonstrations go left, half go right, from the same observation. A chunk is of a mode if all its
entries are near that mode's; every other one is an average that no demonstrator would take.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robopolicy.codecs import Codec, CodecConfig
from robopolicy.data.windows import Batch
from robopolicy.evaluation.machine import stamp
from robopolicy.policies.policy import Policy
from robopolicy.registry import build
from robopolicy.spec import ActionSpec, ObservationSpec, Spec

__all__ = ["FAMILIES", "main", "two_modes"]

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
        trained = [_learn(settings, seed, steps, batch) for seed in seeds]
        for sampler in samplers or (None,):
            tried = [policy.with_sampler(sampler) if sampler else policy for policy in trained]
            counted = [_count(policy, seed, samples) for policy, seed in zip(tried, seeds, strict=True)]
            rows.append({"policy": name, "sampler": sampler, "seeds": counted})
    return {"steps": steps, "batch": batch, "samples": samples, "near": _NEAR, "rows": rows, **stamp()}


def _learn(settings: dict[str, Any], seed: int, steps: int, batch: int) -> Policy:
    """The network's width is 128; its weights are not averaged."""
    torch.manual_seed(seed)
    by_itself = settings["name"] in ("gaussian", "gmm")
    size = {"width": 128} if by_itself else {"network": {"name": "mlp", "width": 128}}
    policy: Policy = build("policy", {**settings, **size}, spec=_SPEC, codec=Codec(CodecConfig(), _SPEC))
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(policy.parameters(), 1e-3)
    seen = _observation(policy, batch)
    for _ in range(steps):
        side = torch.where(torch.rand(batch, 1, 1, generator=generator) < 0.5, -1.0, 1.0)
        chunks = side.expand(batch, policy.pred_horizon, _SPEC.action.size)
        loss, _ = policy.loss(Batch(observation=seen, action=chunks), generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
    return policy.eval()


def _count(policy: Policy, seed: int, samples: int) -> dict[str, float]:
    """Shares of the samples in each mode, and what a chunk costs."""
    made = policy.sample(_observation(policy, samples), generator=torch.Generator().manual_seed(seed + 1))
    chunks = torch.as_tensor(made.actions[:, 0]).flatten(1)
    left, right = (float(((chunks - side).abs() < _NEAR).all(1).float().mean()) for side in (-1.0, 1.0))
    return {"left": left, "right": right, "calls": made.calls}


def _observation(policy: Policy, batch: int) -> dict[str, Tensor]:
    return {"state": torch.zeros(batch, policy.obs_horizon, 3)}


def main(arguments: list[str]) -> None:
    """Measure and print, or write to a file."""
    found = json.dumps(two_modes(), indent=1)
    if arguments:
        Path(arguments[0]).parent.mkdir(parents=True, exist_ok=True)
        Path(arguments[0]).write_text(found + "\n")
    else:
        print(found)


if __name__ == "__main__":
    main(sys.argv[1:])
