"""How far a policy's plans are from what a person wants, and plans moved there."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from robopolicy.errors import ConfigError
from robopolicy.policies.policy import Policy
from robopolicy.steering.costs import Cost
from robopolicy.steering.guidance import Guidance, GuidanceConfig
from robopolicy.steering.positions import Positions

__all__ = ["Alignment", "spread"]


class Alignment:
    """A wish about the plans of a policy, in the robot's units.

    Args:
        guidance: the wish; what the config says by default.

    Raises:
        ConfigError: no wish, or one in another number of coordinates than the policy's positions.
    """

    def __init__(self, policy: Policy, config: GuidanceConfig, guidance: Guidance | None = None) -> None:
        self.codec = policy.codec
        self.positions = Positions(config.positions, policy.spec, policy.obs_horizon)
        self.guidance = guidance or config.guidance()
        if self.guidance.size != self.positions.size:
            raise ConfigError(
                f"Guidance of {self.guidance.size} coordinates; the policy's positions have "
                f"{self.positions.size}."
            )

    def distance(self, actions: Tensor, here: Tensor) -> Tensor:
        """Mean distance of wanted rows of plans `[N, Tp, Da]`, in the position's units: 0 without: `[N]`."""
        plan = self.positions.of(actions, here)
        target, wanted = self.guidance.target(plan, here, self.positions.past)
        gap = torch.linalg.vector_norm(plan - target, dim=-1)
        return (gap * wanted).sum(1) / wanted.sum(1).clamp_min(1)

    def cost(self, observation: Mapping[str, Tensor], n: int) -> Cost:
        """`distance` of encoded chunks, n for each of B observations."""
        rows, here = self._rows(observation, n)
        return lambda code: self.distance(self.codec.decode_action(code, rows), here)

    def moved(self, code: Tensor, observation: Mapping[str, Tensor], strength: float) -> Tensor:
        """Encoded chunks `[N, Tp, Dz]` moved by a share of the way to what is wanted.

        Rows that are free follow their neighbours: between wanted rows the change is interpolated, from
        nothing at the end-effector; after the last it stays.
        """
        rows, here = self._rows(observation, len(code) // len(next(iter(observation.values()))))
        actions = self.codec.decode_action(code, rows)
        plan = self.positions.of(actions, here)
        target, wanted = self.guidance.target(plan, here, self.positions.past)
        change = strength * spread(target - plan, wanted, self.positions.past)
        return self.codec.encode_action(self.positions.moved(actions, change), rows)

    def _rows(self, observation: Mapping[str, Tensor], n: int) -> tuple[dict[str, Tensor], Tensor]:
        rows = {key: value.repeat_interleave(n, 0) for key, value in observation.items()}
        return rows, self.positions.here(rows)


def spread(change: Tensor, wanted: Tensor, past: int) -> Tensor:
    """Changes `[N, Tp, P]` known at the wanted rows (1 in `[N, Tp]`), for all rows.

    Linear between known rows, rising from 0 at row past-1; the last is held. Nothing where no row is known.
    """
    count = wanted.shape[1]
    row = torch.arange(count, device=change.device).expand_as(wanted)
    known = wanted > 0
    before = torch.where(known, row, past - 1).cummax(1).values
    after = torch.where(known, row, count).flip(1).cummin(1).values.flip(1)
    padded = torch.cat([torch.zeros_like(change[:, :1]), change * known[..., None]], 1)

    def at(place: Tensor) -> Tensor:
        """Row -1 of `change` is 0, and so is every row before the first known one."""
        return padded.gather(1, (place + 1)[..., None].expand(-1, -1, change.shape[-1]))

    last = after == count
    share = (row - before).clamp_min(0) / (after - before).clamp_min(1)
    share = torch.where(last, 0.0, share)[..., None]
    return (1 - share) * at(before) + share * at(torch.where(last, before, after))
