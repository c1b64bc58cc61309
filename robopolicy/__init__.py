"""Policies for robots: learned from demonstrations, refined, steered and deployed.

Importing the package is cheap: names below are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    "Spec": "robopolicy.spec",
    "ObservationSpec": "robopolicy.spec",
    "ActionSpec": "robopolicy.spec",
    "Task": "robopolicy.task",
    "EpisodeStore": "robopolicy.data.store",
    "load": "robopolicy.learning.checkpoint",
    "load_value": "robopolicy.policies.actor_critic",
    "register": "robopolicy.registry",
    "build": "robopolicy.registry",
}
__all__ = sorted(_EXPORTS)

if TYPE_CHECKING:
    from robopolicy.data.store import EpisodeStore as EpisodeStore
    from robopolicy.learning.checkpoint import load as load
    from robopolicy.policies.actor_critic import load_value as load_value
    from robopolicy.registry import build as build
    from robopolicy.registry import register as register
    from robopolicy.spec import ActionSpec as ActionSpec
    from robopolicy.spec import ObservationSpec as ObservationSpec
    from robopolicy.spec import Spec as Spec
    from robopolicy.task import Task as Task


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'robopolicy' has no attribute {name!r}")
