"""Between a `Spec` and gymnasium's spaces."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gymnasium
import numpy as np

from robopolicy.errors import ConfigError, SpecMismatch, unknown
from robopolicy.spec import ActionSpec, ObservationSpec, Spec
from robopolicy.task import Task

__all__ = ["camera_specs", "checked", "spaces_of"]


def spaces_of(spec: Spec) -> tuple[gymnasium.Space[Any], gymnasium.spaces.Box]:
    """The gymnasium observation and action spaces of a spec."""
    observations: dict[str, gymnasium.Space[Any]] = {}
    for key, item in spec.observations.items():
        low, high = (0, 255) if item.kind == "image" else (-np.inf, np.inf)
        dtype: Any = np.dtype(item.dtype).type
        observations[key] = gymnasium.spaces.Box(low, high, item.shape, dtype)
    bounds = np.array([spec.action.low, spec.action.high], np.float32)
    return gymnasium.spaces.Dict(observations), gymnasium.spaces.Box(bounds[0], bounds[1], dtype=np.float32)


def camera_specs(task: Task, available: Iterable[str]) -> dict[str, ObservationSpec]:
    """The image observations ``<camera>_image`` that a task asks for.

    Raises:
        ConfigError: a camera, the video's included, that the simulation does not have.
    """
    available = list(available)
    for camera in (*task.cameras, *filter(None, (task.video_camera,))):
        if camera not in available:
            raise ConfigError(f"task {task.name}: " + unknown("camera", camera, available))
    shape = (task.image_size, task.image_size, 3)
    image = ObservationSpec(shape=shape, dtype="uint8", kind="image", group="vision")
    return {f"{camera}_image": image for camera in task.cameras}


def checked(action: np.ndarray, spec: ActionSpec) -> np.ndarray:
    """An action as float64 `[Da]`.

    Raises:
        SpecMismatch: it has another shape, or values that are not finite.
    """
    action = np.asarray(action, np.float64)
    if action.shape != (spec.size,) or not np.isfinite(action).all():
        raise SpecMismatch(
            f"An action is {spec.size} finite numbers ({', '.join(spec.names)}), got {action}."
        )
    return action
