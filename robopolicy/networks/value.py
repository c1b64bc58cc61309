"""The value of a state: the critic of on-policy methods."""

from __future__ import annotations

from torch import Tensor, nn

from robopolicy.networks.mish import Mish

__all__ = ["StateValue"]


class StateValue(nn.Module):
    """Residual MLP of one block, as in DPPO (Ren et al. 2025)."""

    def __init__(self, size: int, width: int = 256) -> None:
        super().__init__()
        self.inlet = nn.Linear(size, width)
        self.body = nn.Sequential(Mish(), nn.Linear(width, width), Mish(), nn.Linear(width, width))
        self.outlet = nn.Sequential(Mish(), nn.Linear(width, 1))

    def forward(self, condition: Tensor) -> Tensor:
        """Condition `[N, To, Dc]` to value `[N]`."""
        hidden = self.inlet(condition.flatten(1))
        value: Tensor = self.outlet(hidden + self.body(hidden))
        return value.squeeze(-1)
