"""Small things about optimisers: making, stepping, slow copies, and their state as named tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["adam", "load_optimizer", "optimizer_tensors", "step", "track"]


def adam(module: nn.Module, learning_rate: float) -> torch.optim.Adam:
    """Adam in its fused form where the device has one."""
    parameters = list(module.parameters())
    return torch.optim.Adam(parameters, learning_rate, fused=parameters[0].device.type in ("cpu", "cuda"))


def step(optimizer: torch.optim.Optimizer, loss: Tensor, inputs: list[nn.Parameter] | None = None) -> None:
    """One gradient step; with `inputs` the gradient is formed for those alone."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward(inputs=inputs)
    optimizer.step()


@torch.no_grad()
def track(slow: nn.Module, module: nn.Module, tau: float) -> None:
    """slow += tau * (module - slow)."""
    torch._foreach_lerp_(list(slow.parameters()), list(module.parameters()), tau)


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """The state of every parameter, by its number."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        f"{prefix}.{index}.{key}": torch.as_tensor(value)
        for index, parameter in enumerate(parameters)
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Read back what `optimizer_tensors` gave."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, parameter in enumerate(parameters):
        start = f"{prefix}.{index}."
        found = {key[len(start) :]: value for key, value in tensors.items() if key.startswith(start)}
        optimizer.state[parameter] = {
            key: value.clone() if key == "step" else value.to(parameter.device).clone()
            for key, value in found.items()
        }
