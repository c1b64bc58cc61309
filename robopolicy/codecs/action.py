"""Action representations: absolute, delta (step to step) and relative (to the current observation).

Delta and relative need, for each part of the action, the observation that holds its current value
(`ActionPart.reference`); parts without one, and grippers, stay absolute. A position followed by a rotation is
a pose: its relative form is the relative trajectory of UMI (Chi et al. 2024), T_now^-1 T_j in SE(3).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from robopolicy.codecs.rotation import from_matrix, to_matrix
from robopolicy.errors import ConfigError
from robopolicy.spec import ActionPart, Spec

__all__ = ["REPRESENTATIONS", "ActionTransform"]

REPRESENTATIONS = ("absolute", "delta", "relative")


class ActionTransform:
    """Action vectors `[B, Tp, Da]` to and from what the network models, `[B, Tp, Dz]`, unnormalised."""

    def __init__(self, spec: Spec, representation: str, rot6d: bool) -> None:
        if representation not in REPRESENTATIONS:
            raise ConfigError(f"action representation {representation!r}: choose from {REPRESENTATIONS}.")
        self.representation = representation
        self.rotations = {k: o.rotation for k, o in spec.observations.items()}
        self.parts = spec.action.slices()
        relative = representation != "absolute"
        if relative and not any(p.reference and p.kind != "gripper" for p, _ in self.parts):
            raise ConfigError(
                f"action representation {representation!r} needs an observation that holds the current value "
                f"of some action part; this action has none (parts: {[p.kind for p, _ in self.parts]})."
            )
        self.six = [p.kind == "rotation" and (rot6d or self._moves(p)) for p, _ in self.parts]
        sizes = [6 if six else part.size for (part, _), six in zip(self.parts, self.six, strict=True)]
        ends = torch.tensor(sizes).cumsum(0).tolist()
        self.slices = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        self.size = sum(sizes)

    def encode(self, action: Tensor, observation: Mapping[str, Tensor]) -> Tensor:
        """`action` `[B, Tp, Da]`, `observation` values `[B, To, ...]`; returns `[B, Tp, Dz]`."""
        pieces = []
        for index, (part, where) in enumerate(self.parts):
            value = action[..., where]
            if not self._moves(part):
                six = self.six[index]
                pieces.append(_as_rot6d(value, part) if six else value)
                continue
            base = self._reference(part, observation)
            if part.kind == "rotation":
                matrix = to_matrix(value, part.rotation or "rot6d")
                before = torch.cat([base, matrix[:, :-1]], 1) if self.representation == "delta" else base
                pieces.append(from_matrix(before.transpose(-1, -2) @ matrix, "rot6d"))
            elif self.representation == "delta":
                pieces.append(value - torch.cat([base, value[:, :-1]], 1))
            else:
                turn = self._frame(index, observation)
                offset = value - base
                pieces.append(offset if turn is None else (offset.unsqueeze(-2) @ turn).squeeze(-2))
        return torch.cat(pieces, -1)

    def decode(self, code: Tensor, observation: Mapping[str, Tensor]) -> Tensor:
        """Inverse of `encode`; any finite input gives a finite action with rotations in SO(3)."""
        pieces = []
        for index, (part, _) in enumerate(self.parts):
            value = code[..., self.slices[index]]
            if not self._moves(part):
                if self.six[index]:
                    value = from_matrix(to_matrix(value, "rot6d"), part.rotation or "rot6d")
                pieces.append(value)
                continue
            base = self._reference(part, observation)
            if part.kind == "rotation":
                matrix = to_matrix(value, "rot6d")
                if self.representation == "delta":
                    steps, running = [], base[:, 0]
                    for j in range(matrix.shape[1]):
                        running = running @ matrix[:, j]
                        steps.append(running)
                    matrix = torch.stack(steps, 1)
                else:
                    matrix = base @ matrix
                pieces.append(from_matrix(matrix, part.rotation or "rot6d"))
            elif self.representation == "delta":
                pieces.append(base + value.cumsum(1))
            else:
                turn = self._frame(index, observation)
                offset = value if turn is None else (value.unsqueeze(-2) @ turn.transpose(-1, -2)).squeeze(-2)
                pieces.append(base + offset)
        return torch.cat(pieces, -1)

    def _moves(self, part: ActionPart) -> bool:
        return self.representation != "absolute" and bool(part.reference) and part.kind != "gripper"

    def _reference(self, part: ActionPart, observation: Mapping[str, Tensor]) -> Tensor:
        """Value at prediction index 0 (delta) or now (relative): `[B, 1, d]`, rotations `[B, 1, 3, 3]`."""
        assert part.reference is not None
        history = observation[part.reference]
        value = history[:, :1] if self.representation == "delta" else history[:, -1:]
        if part.kind == "rotation":
            return to_matrix(value, self.rotations[part.reference] or part.rotation or "rot6d")
        return value

    def _frame(self, index: int, observation: Mapping[str, Tensor]) -> Tensor | None:
        """The current orientation `[B, 1, 3, 3]`, if this position and the next part are a pose."""
        if self.parts[index][0].kind != "position" or index + 1 >= len(self.parts):
            return None
        following = self.parts[index + 1][0]
        if following.kind != "rotation" or not self._moves(following):
            return None
        return self._reference(following, observation)


def _as_rot6d(value: Tensor, part: ActionPart) -> Tensor:
    return from_matrix(to_matrix(value, part.rotation or "rot6d"), "rot6d")
