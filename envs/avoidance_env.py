"""Planar obstacle avoidance: from a start line through six cylinders to a goal line, by one of 24 routes.

After the avoiding task of D3IL (Jia et al., ICLR 2024): rows of one, two and three obstacles leave two, three
and four gaps, so equal starts have 2 * 3 * 4 equally good routes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from envs.rasterizer import TopView
from envs.spaces import camera_specs, checked, spaces_of
from robopolicy.env import Expert, Observation, RobotEnv
from robopolicy.errors import ConfigError, RobopolicyError, SpecMismatch, unknown
from robopolicy.registry import parse, register
from robopolicy.spec import ActionPart, ActionSpec, ObservationSpec, Spec
from robopolicy.task import Task

__all__ = [
    "CONTROL_HZ",
    "COUNTS",
    "FIELD",
    "GOAL",
    "OBSTACLE_RADIUS",
    "PUSHER_RADIUS",
    "ROWS",
    "STEP",
    "AvoidanceConfig",
    "AvoidanceEnv",
]

ROWS = (0.2, 0.4, 0.6)
"""y of each row of obstacles, metres."""
FIELD = np.array(
    [[0.0, 0.2], [-0.08, 0.4], [0.08, 0.4], [-0.16, 0.6], [0.0, 0.6], [0.16, 0.6]], dtype=np.float64
)
"""Nominal centres of the obstacles, from the left and row by row."""
COUNTS = (1, 2, 3)
"""Obstacles in each row."""
GOAL = 0.8
STEP = 0.02
"""Metres that a full action moves the commanded position."""
CONTROL_HZ = 20.0
OBSTACLE_RADIUS, PUSHER_RADIUS = 0.022, 0.012
_SUBSTEPS = 5
_LOW, _HIGH = np.array([-0.34, -0.06]), np.array([0.34, 0.86])
_PATH = Path(__file__).parent / "assets" / "avoidance.xml"


@dataclass(frozen=True, kw_only=True)
class AvoidanceConfig:
    """How much an episode differs from the next."""

    start: float = 0.05
    """The start is uniform within this many metres of the middle of the start line."""
    shift: float = 0.02
    """All obstacles are moved together in x by up to this many metres."""
    controller: Literal["delta", "absolute"] = "delta"
    """What an action is: a step of the commanded position, or that position itself, metres."""

    def __post_init__(self) -> None:
        if not 0 <= self.start <= 0.3 or not 0 <= self.shift <= 0.05:
            raise ConfigError(
                f"avoidance: start in [0, 0.3] and shift in [0, 0.05] metres, got {self.start}, {self.shift}."
            )


@register("env", "avoidance")
class AvoidanceEnv(RobotEnv):
    """A pushed cylinder on a table; success is crossing the goal line, touching an obstacle ends the episode.

    The action `[2]` moves the commanded position, or is where it moves to; in either case by at most 2 cm a
    step in x and y. The cylinder follows it with the lag of a servo.
    """

    routes = tuple("".join(map(str, gaps)) for gaps in itertools.product(*(range(n + 1) for n in COUNTS)))
    reset_options = frozenset({"object_range"})

    def __init__(self, config: AvoidanceConfig, *, task: Task) -> None:
        import mujoco

        from envs.rendering import Renderer

        self.config, self.task = config, task
        self._mujoco = mujoco
        self._model = mujoco.MjModel.from_xml_path(str(_PATH))
        self._data = mujoco.MjData(self._model)
        self._renderer = Renderer(self._model)
        self._top = TopView(low=(-0.46, -0.07), high=(0.46, 0.85))
        self.robot_spec = _spec(config.controller, camera_specs(task, ("top", "side")))
        self.observation_space, self.action_space = spaces_of(self.robot_spec)
        self._target = np.zeros(2)
        self._touched = False
        self._ready = False

    @property
    def target(self) -> np.ndarray:
        """The commanded position `[2]`, metres."""
        return self._target.copy()

    @property
    def obstacles(self) -> np.ndarray:
        """Centres of the obstacles `[6, 2]`, metres, ordered as `FIELD`."""
        return self._data.mocap_pos[:, :2].copy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start the episode that `seed` determines.

        Args:
            options: "object_range" widens the range of the shift by this fraction (0 is none).
        """
        super().reset(seed=seed)
        self._mujoco.mj_resetData(self._model, self._data)
        wider = 1.0 + float((options or {}).get("object_range", 0.0))
        start = self.np_random.uniform(-self.config.start, self.config.start)
        shift = self.np_random.uniform(-1.0, 1.0) * self.config.shift * wider
        self._data.mocap_pos[:, :2] = FIELD
        self._data.mocap_pos[:, 0] += shift
        self._target = np.array([start, 0.0])
        self._data.qpos[:] = self._data.ctrl[:] = self._target
        self._mujoco.mj_forward(self._model, self._data)
        self._touched, self._ready = False, True
        return self._observe(), {"success": False}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Move the commanded position by `action` `[2]`, clipped to +-1, times 2 cm, or towards it.

        Raises:
            SpecMismatch: an action of another shape or with values that are not finite.
            RobopolicyError: no `reset` yet.
        """
        if not self._ready:
            raise RobopolicyError("Call reset() before step().")
        action = checked(action, self.robot_spec.action)
        if self.config.controller == "absolute":
            action = (action - self._target) / STEP
        self._target = np.clip(self._target + STEP * np.clip(action, -1.0, 1.0), _LOW, _HIGH)
        self._data.ctrl[:] = self._target
        for _ in range(_SUBSTEPS):
            self._mujoco.mj_step(self._model, self._data)
            self._touched = self._touched or self._data.ncon > 0
        success = self._success()
        return self._observe(), float(success), self._touched, False, {"success": success}

    def render_frame(self, camera: str = "", size: int = 256) -> np.ndarray:
        """A uint8 `[size, size, 3]` picture: "top" is drawn flat and fast, "side" by MuJoCo.

        Raises:
            ConfigError: another camera.
        """
        camera = camera or self.task.video_camera or "top"
        if camera not in ("top", "side"):
            raise ConfigError(unknown("camera", camera, ("top", "side")))
        if camera == "side":
            self._mujoco.mj_kinematics(self._model, self._data)
            self._mujoco.mj_camlight(self._model, self._data)
            return self._renderer.picture(self._data, "side", size)
        lines = ((0.0, (115, 120, 133)), (GOAL, (51, 158, 84)))
        background = self._top.background(size, lines, self.obstacles, OBSTACLE_RADIUS, (204, 69, 56))
        return self._top.disc(background, self._data.qpos, PUSHER_RADIUS, (41, 82, 191))

    def expert(self, seed: int, settings: Mapping[str, Any]) -> Expert:
        """A demonstrator that draws one of the routes; `settings` are the fields of its config."""
        from envs.avoidance_expert import AvoidanceExpert, AvoidanceExpertConfig

        return AvoidanceExpert(self, parse(AvoidanceExpertConfig, settings, "expert"), seed)

    def route(self, episode: Mapping[str, np.ndarray]) -> str | None:
        """The gap taken in each row, counted from the left ("021"); None if a row was never passed.

        Args:
            episode: "position" `[T, 2]` and "obstacles" `[T, 12]`.
        """
        position, obstacles = episode["position"], episode["obstacles"][0].reshape(-1, 2)
        gaps, first = "", 0
        for y, count in zip(ROWS, COUNTS, strict=True):
            beyond = position[:, 1] > y
            if not beyond[-1]:
                return None
            passed = len(beyond) - int(np.argmin(beyond[::-1])) if not beyond.all() else 0
            gaps += str(int((obstacles[first : first + count, 0] < position[passed, 0]).sum()))
            first += count
        return gaps

    def get_state(self) -> np.ndarray:
        """MuJoCo's integration state, the commanded position, and whether an obstacle was touched."""
        kind = self._mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(self._mujoco.mj_stateSize(self._model, kind))
        self._mujoco.mj_getState(self._model, self._data, state, kind)
        return np.concatenate([state, self._target, [float(self._touched)]])

    def set_state(self, state: np.ndarray) -> Observation:
        """Go to a state from `get_state`; stepping on from it repeats the original exactly.

        Raises:
            SpecMismatch: a state of another size.
        """
        kind = self._mujoco.mjtState.mjSTATE_INTEGRATION
        size = self._mujoco.mj_stateSize(self._model, kind)
        if state.shape != (size + 3,):
            raise SpecMismatch(f"A state of avoidance is [{size + 3}], got {list(state.shape)}.")
        values = np.ascontiguousarray(state[:size], np.float64)
        self._mujoco.mj_setState(self._model, self._data, values, kind)
        self._target, self._touched = state[size : size + 2].copy(), bool(state[-1])
        self._ready = True
        return self._observe()

    def close(self) -> None:
        """Free the OpenGL context, if there is one."""
        self._renderer.close()

    def _success(self) -> bool:
        return bool(self._data.qpos[1] > GOAL and not self._touched)

    def _observe(self) -> Observation:
        found: dict[str, np.ndarray] = {
            "position": self._data.qpos.astype(np.float32),
            "velocity": self._data.qvel.astype(np.float32),
            "obstacles": self.obstacles.astype(np.float32).reshape(-1),
        }
        for camera in self.task.cameras:
            found[f"{camera}_image"] = self.render_frame(camera, self.task.image_size)
        return found


def _spec(controller: str, images: Mapping[str, ObservationSpec]) -> Spec:
    place = ObservationSpec(shape=(2,), unit="m", frame="world", group="proprioception")
    velocity = ObservationSpec(shape=(2,), unit="m/s", frame="world", group="proprioception")
    obstacles = ObservationSpec(shape=(FIELD.size,), unit="m", frame="world", group="object")
    absolute = controller == "absolute"
    action = ActionSpec(
        names=("x", "y"),
        low=tuple(_LOW.tolist()) if absolute else (-1.0, -1.0),
        high=tuple(_HIGH.tolist()) if absolute else (1.0, 1.0),
        representation="ee_position" if absolute else "ee_delta",
        unit="m" if absolute else "2 cm",
        parts=(ActionPart(kind="position", size=2, reference="position" if absolute else None),),
    )
    observations = {"position": place, "velocity": velocity, "obstacles": obstacles, **images}
    return Spec(observations=observations, action=action, control_hz=CONTROL_HZ)
