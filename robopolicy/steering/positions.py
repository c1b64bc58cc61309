"""Where a chunk of actions takes the end-effector: the declared way from actions to positions, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from robopolicy.errors import ConfigError, unknown
from robopolicy.spec import Spec

__all__ = ["Positions", "PositionsConfig"]


@dataclass(frozen=True, kw_only=True)
class PositionsConfig:
    """Nothing needs saying where the action has one absolute position with its observation."""

    columns: tuple[int, ...] = ()
    """Dimensions of the action."""
    key: str = ""
    """State observation of the same size that holds the position now."""
    scale: float = 0.0
    """Where actions are steps: metres (or what the observation is in) per unit of action; 0: positions."""

    def __post_init__(self) -> None:
        if bool(self.columns) != bool(self.key) or (self.scale and not self.key) or self.scale < 0:
            raise ConfigError(
                f"positions needs columns and key together and scale >= 0, got {list(self.columns)}, "
                f"{self.key!r}, {self.scale}."
            )


class Positions:
    """The P columns of actions that are positions, or steps of a position.

    Raises:
        ConfigError: nothing is declared and the action has no single absolute position, or what is declared
            does not fit the spec.
    """

    def __init__(self, config: PositionsConfig, spec: Spec, obs_horizon: int) -> None:
        columns, key = config.columns, config.key
        if not key:
            found = [(part, where) for part, where in spec.action.slices() if part.kind == "position"]
            if len(found) != 1 or not found[0][0].reference or not spec.action.holds_position:
                raise ConfigError(
                    f"Actions {', '.join(spec.action.names)} ({spec.action.representation}) do not say where "
                    "the end-effector will be: declare steer.positions.columns, .key and, where actions are "
                    "steps, .scale."
                )
            key, columns = str(found[0][0].reference), tuple(range(spec.action.size))[found[0][1]]
        if key not in spec.observations:
            raise ConfigError("positions.key: " + unknown("observation", key, spec.observations))
        shape = spec.observations[key].shape
        if shape != (len(columns),) or not set(columns) <= set(range(spec.action.size)):
            raise ConfigError(
                f"positions: columns {list(columns)} of an action of {spec.action.size} are not where "
                f"{key!r} {list(shape)} moves."
            )
        self.columns, self.key, self.scale = list(columns), key, config.scale
        self.past = obs_horizon - 1
        """Rows of a chunk that are already history."""

    @property
    def size(self) -> int:
        """P."""
        return len(self.columns)

    def here(self, observation: Mapping[str, Tensor]) -> Tensor:
        """The position now, `[B, P]`, from observations `[B, To, ...]`."""
        return observation[self.key][:, -1]

    def of(self, actions: Tensor, here: Tensor) -> Tensor:
        """Positions `[N, Tp, P]` after each action `[N, Tp, Da]`; before row To-1 steps stand still."""
        moved = actions[..., self.columns]
        if not self.scale:
            return moved
        steps = torch.cat([torch.zeros_like(moved[:, : self.past]), moved[:, self.past :]], 1)
        return here[:, None] + self.scale * steps.cumsum(1)

    def moved(self, actions: Tensor, change: Tensor) -> Tensor:
        """Actions that lead to positions changed by `[N, Tp, P]`."""
        if self.scale:
            before = torch.cat([torch.zeros_like(change[:, :1]), change[:, :-1]], 1)
            change = (change - before) / self.scale
        moved = actions.clone()
        moved[..., self.columns] += change.to(actions)
        return moved
