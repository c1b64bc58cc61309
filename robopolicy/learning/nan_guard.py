"""When a loss is not a number: keep everything needed to see why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import save_file
from torch import nn

from robopolicy.data.windows import Batch
from robopolicy.errors import RobopolicyError
from robopolicy.registry import plain

__all__ = ["NotFiniteError", "dump_and_raise", "refuse_broken"]


class NotFiniteError(RobopolicyError, ArithmeticError):
    """The training loss became NaN or infinite."""


def dump_and_raise(
    directory: Path, step: int, batch: Batch, stream: int, module: nn.Module, config: Mapping[str, Any]
) -> NoReturn:
    """Write batch, weights, random stream and configuration to ``<run>/nan/step-<n>`` and raise.

    Raises:
        NotFiniteError: names the directory and what in it is not finite.
    """
    target = Path(directory) / "nan" / f"step-{step:08d}"
    target.mkdir(parents=True, exist_ok=True)
    inputs = {f"observation.{k}": v for k, v in batch.observation.items()} | {"action": batch.action}
    weights = module.state_dict()
    save_file({k: v.detach().cpu().contiguous() for k, v in inputs.items()}, target / "batch.safetensors")
    save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, target / "weights.safetensors")
    state = {"step": step, "generator_seed": stream, "config": plain(config)}
    (target / "state.json").write_text(json.dumps(state, indent=1))
    floating = {k: v for k, v in {**inputs, **weights}.items() if v.is_floating_point()}
    bad = [key for key, value in floating.items() if not torch.isfinite(value).all()]
    culprit = (
        f"not finite: {', '.join(bad[:6])}" if bad else "batch and weights are finite: the loss overflowed"
    )
    raise NotFiniteError(
        f"The loss is not finite at step {step} ({culprit}). Batch, weights, random seed and configuration "
        f"are in {target}. The last checkpoint is untouched."
    )


def refuse_broken(module: nn.Module, step: int) -> None:
    """Raise if a weight is NaN or infinite.

    Raises:
        NotFiniteError: names the weights.
    """
    bad = [name for name, value in module.named_parameters() if not torch.isfinite(value).all()]
    if bad:
        raise NotFiniteError(
            f"Weights are not finite at step {step}: {', '.join(bad[:6])}. They are not saved; "
            "the last checkpoint is untouched."
        )
