"""A task: which environment, how long an episode lasts, and what counts as success."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from robopolicy.errors import ConfigError
from robopolicy.registry import parse, plain

__all__ = ["Task"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One yaml of ``configs/task``; stored whole in every store and checkpoint made with it."""

    name: str
    env: Mapping[str, Any]
    """``{"name": registered environment, **its config}``."""
    horizon: int
    """Longest episode, in control steps."""
    success_hold: int = 10
    """Steps an episode goes on after its first success: "success" is at any step, and the stricter
    "success_final", at the last of these steps, is recorded beside it."""
    instruction: str = ""
    cameras: tuple[str, ...] = ()
    """Cameras that become image observations."""
    image_size: int = 84
    video_camera: str = ""
    """Camera for videos (the environment's own default when empty)."""
    expert: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the scripted expert (mode, noise, ...)."""
    perturb: tuple[Mapping[str, Any], ...] = ()
    """What goes wrong, as `robopolicy.perturbation.Perturbation`: name, level, group."""
    goals: str = ""
    """Store whose episodes' last observations the policy is told to bring about, as ``goal/<key>``."""

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise ConfigError(f"task {self.name}: horizon must be at least 1, got {self.horizon}.")
        if self.success_hold < 0:
            raise ConfigError(f"task {self.name}: success_hold must be >= 0, got {self.success_hold}.")
        if "name" not in self.env:
            raise ConfigError(f"task {self.name}: env needs a 'name'.")
        object.__setattr__(self, "env", dict(self.env))
        object.__setattr__(self, "expert", dict(self.expert))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return plain(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Task:
        """Read what `to_dict` wrote, or a yaml of ``configs/task``."""
        return parse(cls, values, where=f"task={values.get('name', '?')}")
