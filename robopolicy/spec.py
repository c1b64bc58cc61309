"""What goes into a policy and what comes out, the same for store, checkpoint, environment and robot."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from robopolicy.errors import ConfigError, SpecMismatch, unknown
from robopolicy.registry import parse, plain

__all__ = [
    "GOAL",
    "INSTRUCTION",
    "ROTATION_SIZE",
    "TEXT",
    "ActionPart",
    "ActionSpec",
    "Kind",
    "ObservationSpec",
    "PartKind",
    "Rotation",
    "Spec",
]

Kind = Literal["state", "image", "text"]
PartKind = Literal["position", "rotation", "gripper", "joint", "other"]
Rotation = Literal["axis_angle", "quat_xyzw", "quat_wxyz", "rot6d"]
INSTRUCTION = "instruction"
"""The text observation that a task or a store's episodes provide, not an environment."""
GOAL = "goal/"
"""Prefix of observations that tell what another should become: ``goal/position`` is of ``position``."""
ROTATION_SIZE: dict[str, int] = {"axis_angle": 3, "quat_xyzw": 4, "quat_wxyz": 4, "rot6d": 6}


@dataclass(frozen=True, kw_only=True)
class ObservationSpec:
    """One observation key. Images are uint8 ``[H, W, C]``; text has shape ``()`` and dtype ``str``."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    kind: Kind = "state"
    unit: str = ""
    frame: str = ""
    group: str = ""
    """Modality group (proprioception, object, ...): the unit in which factorised policies prioritise."""
    rotation: Rotation | None = None
    """Representation, for keys that hold an orientation."""

    def __post_init__(self) -> None:
        if self.kind == "image" and (len(self.shape) != 3 or self.dtype != "uint8"):
            raise ConfigError(f"An image is uint8 [H, W, C], got {self.dtype} {list(self.shape)}.")
        if self.rotation is not None and self.shape != (ROTATION_SIZE[self.rotation],):
            raise ConfigError(f"rotation={self.rotation} needs shape [{ROTATION_SIZE[self.rotation]}].")


TEXT = ObservationSpec(shape=(), dtype="str", kind="text", group="instruction")
"""The spec of a text."""


@dataclass(frozen=True, kw_only=True)
class ActionPart:
    """A run of action dimensions with one meaning, in order: the parts of an action tile it."""

    kind: PartKind
    size: int
    rotation: Rotation | None = None
    reference: str | None = None
    """Observation key that holds the current value of this part (for delta and relative encodings)."""
    adds_to: str | None = None
    """Observation key whose first numbers follow a target that every such action is added to, whether they
    can follow or not."""
    gain: float = 1.0
    """How far an action of 1 moves that target, in the observation's unit."""


@dataclass(frozen=True, kw_only=True)
class ActionSpec:
    """The action vector `[Da]`: what it commands, its names, bounds and units."""

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    representation: str = "unspecified"
    """e.g. joint_position, ee_pose, ee_delta. What a delta action is stays with the environment."""
    unit: str = ""
    gripper: str = ""
    """Gripper convention in words, e.g. "-1 open, +1 closed"."""
    parts: tuple[ActionPart, ...] = ()

    def __post_init__(self) -> None:
        if not (len(self.names) == len(self.low) == len(self.high)):
            raise ConfigError(
                f"Action names, low and high differ in length: "
                f"{len(self.names)}, {len(self.low)}, {len(self.high)}."
            )
        if any(not low < high for low, high in zip(self.low, self.high, strict=True)):
            raise ConfigError(f"Action bounds need low < high, got low={self.low}, high={self.high}.")
        if not self.parts:
            object.__setattr__(self, "parts", (ActionPart(kind="other", size=self.size),))
        if sum(part.size for part in self.parts) != self.size:
            raise ConfigError(
                f"Action parts cover {sum(p.size for p in self.parts)} dimensions of {self.size}."
            )

    @property
    def size(self) -> int:
        """Da, the number of action dimensions."""
        return len(self.names)

    @property
    def holds_position(self) -> bool:
        """Whether repeating the last action holds still (absolute targets), or zero does (deltas)."""
        return not ("delta" in self.representation or "velocity" in self.representation)

    def slices(self) -> list[tuple[ActionPart, slice]]:
        """Each part with the slice of the action vector it occupies."""
        start, result = 0, []
        for part in self.parts:
            result.append((part, slice(start, start + part.size)))
            start += part.size
        return result


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Observations and action of a policy, environment, store or robot."""

    observations: Mapping[str, ObservationSpec]
    action: ActionSpec
    control_hz: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "observations", dict(self.observations))
        if not self.observations:
            raise ConfigError("A spec needs at least one observation.")
        if not self.control_hz > 0:
            raise ConfigError(f"control_hz must be positive, got {self.control_hz}.")
        for part in self.action.parts:
            if part.reference is not None and part.reference not in self.observations:
                raise ConfigError(unknown("reference observation", part.reference, self.observations))

    @property
    def goals(self) -> list[str]:
        """Keys of the observations that tell what another should become."""
        return [key for key in self.observations if key.startswith(GOAL)]

    def select(self, keys: Sequence[str]) -> Spec:
        """The same spec with only these observations; references to dropped keys are removed."""
        for key in keys:
            if key not in self.observations:
                raise SpecMismatch(unknown("observation", key, self.observations))
        kept = {key: self.observations[key] for key in keys}
        parts = tuple(
            p if p.reference in kept else dataclasses.replace(p, reference=None) for p in self.action.parts
        )
        return Spec(
            observations=kept,
            action=dataclasses.replace(self.action, parts=parts),
            control_hz=self.control_hz,
        )

    def differences(self, provided: Spec) -> list[str]:
        """Why a provider with spec `provided` cannot serve what this spec asks for; empty if it can.

        An instruction is not the provider's: it comes with the task, or with a store's episodes.
        """
        found = []
        for key, wanted in self.observations.items():
            offered = provided.observations.get(key)
            if offered is None and key == INSTRUCTION:
                continue
            if offered is None:
                hint = " Episodes' ends are goals with +task.goals=<store>." if key.startswith(GOAL) else ""
                found.append(
                    f"observation {key!r}: missing (given: {', '.join(sorted(provided.observations))}).{hint}"
                )
                continue
            for name in ("shape", "dtype", "kind", "unit", "frame", "rotation"):
                mine, theirs = getattr(wanted, name), getattr(offered, name)
                if mine != theirs:
                    found.append(f"observation {key!r}: {name} wanted {mine!r}, given {theirs!r}")
        for name in ("names", "representation", "unit", "gripper", "low", "high"):
            mine, theirs = getattr(self.action, name), getattr(provided.action, name)
            if mine != theirs:
                found.append(f"action: {name} wanted {mine!r}, given {theirs!r}")
        if abs(self.control_hz - provided.control_hz) > 1e-6:
            found.append(f"control_hz: wanted {self.control_hz:g}, given {provided.control_hz:g}")
        return found

    def require(self, provided: Spec, what: str = "environment") -> None:
        """Raise, listing every difference, unless `provided` offers all this spec needs.

        Raises:
            SpecMismatch: one line for each difference.
        """
        found = self.differences(provided)
        if found:
            raise SpecMismatch(f"The {what} does not fit:\n  - " + "\n  - ".join(found))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` reads it back."""
        return cast(dict[str, Any], plain(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Spec:
        """Read what `to_dict` wrote (tuples may have become lists)."""
        observations = {k: parse(ObservationSpec, v, f"spec.{k}") for k, v in values["observations"].items()}
        action = parse(ActionSpec, values["action"], "spec.action")
        return cls(observations=observations, action=action, control_hz=float(values["control_hz"]))

    @classmethod
    def from_arrays(
        cls, observations: Mapping[str, np.ndarray], actions: np.ndarray, *, control_hz: float
    ) -> Spec:
        """A plain spec from one episode's arrays: observations `[T, ...]`, actions `[T, Da]`.

        uint8 arrays with three trailing dimensions are images; everything else is a state. Action bounds
        are unlimited: give an `ActionSpec` of your own where they are known.
        """
        specs = {
            key: ObservationSpec(
                shape=tuple(array.shape[1:]),
                dtype="uint8" if array.dtype == np.uint8 else "float32",
                kind="image" if array.dtype == np.uint8 and array.ndim == 4 else "state",
            )
            for key, array in observations.items()
        }
        size = int(actions.shape[-1])
        action = ActionSpec(
            names=tuple(f"action_{i}" for i in range(size)),
            low=(-float("inf"),) * size,
            high=(float("inf"),) * size,
        )
        return cls(observations=specs, action=action, control_hz=control_hz)
