"""robosuite's single-arm tasks behind `RobotEnv`."""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from envs.carrying import route_carried
from envs.robosuite_placement import Placement
from envs.robosuite_spec import PROPRIOCEPTION, Controller, make_spec
from envs.robosuite_tasks import TASKS
from envs.spaces import camera_specs, checked, spaces_of
from robopolicy.env import Expert, Grasp, Observation, RobotEnv
from robopolicy.errors import ConfigError, MissingCapability, RobopolicyError, SpecMismatch, unknown
from robopolicy.registry import parse, register
from robopolicy.task import Task

__all__ = ["RobosuiteConfig", "RobosuiteEnv"]

_PHYSICS_HZ = 500
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RobosuiteConfig:
    """A robosuite task and how its arms are commanded."""

    task: Literal["Lift", "PickPlaceCan", "NutAssemblySquare", "Door", "Stack", "TwoArmLift"] = "Lift"
    robot: Literal["Panda"] = "Panda"
    control_hz: int = 20
    controller: Controller = "delta"
    """"delta": change of the grip site's pose, +-1 is 5 cm and 0.5 rad; "absolute": its pose in the world;
    "joint_delta": change of the joints, +-1 is 0.05 rad, by robosuite's own controller, which is slower."""
    proprioception: tuple[str, ...] = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
    """`robot0_eef_quat` is the hand's orientation, as in robosuite's datasets; `robot0_eef_quat_site` is
    that of the grip site, which absolute actions command."""
    observe: Literal["end", "stock"] = "end"
    """"end": observation, reward and success of the state at the end of the step; "stock": exactly what
    robosuite returns, in which poses are older than joint positions (see `StockObservables`)."""
    engine: Literal["fast", "stock"] = "fast"
    """"fast": the control step is compiled, where that is possible; "stock": robosuite's own `step`."""
    placement: float = 1.0
    """Size of the range in which objects are placed, relative to robosuite's (Lift: 6 cm by 6 cm); of angles
    too, where robosuite has a range of them (Door)."""

    def __post_init__(self) -> None:
        if self.control_hz < 1 or _PHYSICS_HZ % self.control_hz:
            raise ConfigError(f"control_hz must divide {_PHYSICS_HZ}, got {self.control_hz}.")
        if self.task not in TASKS:
            raise ConfigError(unknown("robosuite task", self.task, TASKS))
        if self.placement < 0:
            raise ConfigError(f"placement must be at least 0, got {self.placement}.")
        if self.placement > (widest := TASKS[self.task].widest):
            raise ConfigError(f"{self.task} has room for placement up to {widest:g}, got {self.placement:g}.")
        robots = TASKS[self.task].robots
        valid = [key for key in PROPRIOCEPTION if int(key[5]) < robots]
        for key in self.proprioception:
            if key not in valid:
                raise ConfigError(unknown("proprioception key", key, valid))


@register("env", "robosuite")
class RobosuiteEnv(RobotEnv):
    """A robosuite task: its models, placements, resets, rewards and success rules, with fast control steps.

    By default observations are computed from the state at the end of the step, so they depend on nothing
    else: robosuite's own poses lag by one physics step, and its relative object poses by one control step.
    The sign of a relative quaternion is continuous in time instead of jumping where its real part changes
    sign. ``observe: stock`` reproduces robosuite's observations and rewards instead, lag included.
    """

    def __init__(self, config: RobosuiteConfig, *, task: Task) -> None:
        self.config, self.task = config, task
        mujoco, suite = _import_robosuite()
        from envs.rendering import Renderer
        from envs.robosuite_control import Control, FastControl, GripSite, StockControl, not_covered
        from envs.robosuite_observations import EndOfStep, StockObservables

        self._mujoco = mujoco
        about = TASKS[config.task]
        # The seed decides what is drawn once for ever (the size of Lift's cube); a soft reset keeps it.
        self._suite = suite.make(
            config.task,
            robots=[config.robot] * about.robots,
            controller_configs=[_controller(config, suite) for _ in range(about.robots)],
            control_freq=config.control_hz,
            has_renderer=False,
            has_offscreen_renderer=False,
            use_camera_obs=False,
            renderer="mujoco",
            hard_reset=False,
            ignore_done=True,
            lite_physics=True,
            seed=0,
        )
        self._model, self._data = self._suite.sim.model._model, self._suite.sim.data._data
        self._end = EndOfStep(self._suite, config.proprioception, about.object if about.written_out else None)
        self._stock = (
            StockObservables(self._suite, config.proprioception) if config.observe == "stock" else None
        )
        if self._stock is None:
            for name in self._suite.observation_names:
                self._suite.modify_observable(name, "enabled", False)
        reason = not_covered(self._suite)
        if reason is not None and config.engine == "fast":
            _logger.warning("%s steps at robosuite's own speed: %s.", task.name, reason)
        self.engine = "stock" if reason is not None else config.engine
        self._control: Control
        if self.engine == "fast":
            self._control = FastControl(self._suite, _PHYSICS_HZ // config.control_hz)
        else:
            self._control = StockControl(self._suite)
        self.arm = GripSite(self._suite.robots[0], self._model, self._data)
        self._renderer = Renderer(self._model, hidden_groups=(0,))
        self._object = int(self._model.body(about.object).id)
        self._placed = [int(self._model.body(name).id) for name in about.placed]
        self._placement = Placement(self._suite, about.object)
        self._position, self.routes = about.position, about.routes
        self.reset_options = frozenset({"object_range"} if about.widest > 1 else ())
        cameras = [self._model.camera(i).name for i in range(self._model.ncam)]
        self.robot_spec = make_spec(
            config.proprioception,
            config.controller,
            robots=about.robots,
            object_size=len(self._end.object_state()),
            images=camera_specs(task, cameras),
            control_hz=config.control_hz,
        )
        self.observation_space, self.action_space = spaces_of(self.robot_spec)
        self._ready = False

    @property
    def simulation(self) -> tuple[Any, Any]:
        """The `mujoco.MjModel` and `mujoco.MjData`, for scripted experts."""
        return self._model, self._data

    def leave_out(self, *savings: str) -> None:
        """Step without some of what makes the fast engine fast (`envs.robosuite_control.SAVINGS`).

        Raises:
            MissingCapability: the engine is robosuite's own.
        """
        from envs.robosuite_control import FastControl

        if not isinstance(self._control, FastControl):
            raise MissingCapability(f"{self.task.name} steps at robosuite's own speed.")
        self._control.leave_out(*savings)

    @property
    def object_body(self) -> int:
        """The body id of the object that the task is about."""
        return self._object

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start the episode that `seed` determines (without one, the next of this environment's stream).

        Args:
            options: "object_range" widens the range of placement by this fraction (0 is none).

        Raises:
            ConfigError: there is no room for that.
        """
        super().reset(seed=seed)
        self._placement.widen(self._factor(float((options or {}).get("object_range", 0.0))))
        episode = int(self.np_random.integers(2**63))
        # Placement samplers and initial joint noise share this generator, so it is reseeded in place.
        self._suite.rng.bit_generator.state = np.random.default_rng(episode).bit_generator.state
        self._suite.reset()
        self._control.begin(reset=True)
        self._ready = True
        self._mujoco.mj_kinematics(self._model, self._data)
        return self._observe(), {"success": bool(self._suite._check_success())}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Hold one action `[Da]` for a control step.

        Raises:
            SpecMismatch: an action of another shape or with values that are not finite.
            RobopolicyError: no `reset` yet.
        """
        if not self._ready:
            raise RobopolicyError("Call reset() before step().")
        action = checked(action, self.robot_spec.action)
        self._control.step(action)
        if self._stock is None:
            self._mujoco.mj_kinematics(self._model, self._data)
        elif self.engine == "fast":
            self._stock.sample()
        observation = self._observe()
        success = bool(self._suite._check_success())
        reward = self._reward(action, success)
        if self._stock is not None:  # for the next goal, and whoever looks at the simulation
            self._mujoco.mj_kinematics(self._model, self._data)
        return observation, reward, False, False, {"success": success}

    def render_frame(self, camera: str = "", size: int = 256) -> np.ndarray:
        """A uint8 `[size, size, 3]` picture; the default camera is the task's `video_camera`."""
        self._mujoco.mj_comPos(self._model, self._data)
        self._mujoco.mj_camlight(self._model, self._data)
        return self._renderer.picture(self._data, camera or self.task.video_camera or "agentview", size)

    def expert(self, seed: int, settings: Mapping[str, Any]) -> Expert:
        """A scripted expert; `settings` are the fields of `envs.experts.ExpertConfig`.

        Raises:
            MissingCapability: nobody wrote one for this task, or for actions that move joints.
        """
        from envs import experts

        return experts.make(self, parse(experts.ExpertConfig, settings, "expert"), seed)

    def route(self, episode: Mapping[str, np.ndarray]) -> str | None:
        """The route by which the object was carried (see `envs.carrying`).

        Args:
            episode: "object-state" `[T, ...]`.

        Raises:
            MissingCapability: a task whose routes nobody tells apart.
        """
        if not self.routes:
            raise MissingCapability(f"Nobody tells routes of {self.config.task} apart.")
        return route_carried(episode["object-state"][:, self._position])

    def grasp(self, episode: Mapping[str, np.ndarray]) -> Grasp:
        """How the fingers and the task's object stood to one another.

        Args:
            episode: "object-state", "robot0_eef_pos" and "robot0_gripper_qpos", `[T, ...]`.

        Raises:
            MissingCapability: a task without one object to hold, or without those observations.
        """
        hand, fingers = "robot0_eef_pos", "robot0_gripper_qpos"
        if self._position is None or not {hand, fingers} <= {*self.config.proprioception}:
            raise MissingCapability(f"{self.config.task} needs one object to hold, {hand} and {fingers}.")
        position = episode["object-state"][:, self._position]
        return Grasp(
            opening=np.abs(episode[fingers]).sum(1),
            distance=np.linalg.norm(position - episode[hand], axis=1),
            height=position[:, 2],
        )

    def get_state(self) -> np.ndarray:
        """MuJoCo's integration state and what control, placement and observation remember, float64 `[S]`."""
        kind = self._mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(self._mujoco.mj_stateSize(self._model, kind))
        self._mujoco.mj_getState(self._model, self._data, state, kind)
        return np.concatenate([state, *self._memories()])

    def set_state(self, state: np.ndarray) -> Observation:
        """Go to a state from `get_state`; stepping on from it repeats the original exactly.

        Time, positions and velocities alone, as robosuite and robomimic record them, begin an episode.

        Raises:
            SpecMismatch: a state of another model.
        """
        kinds = self._mujoco.mjtState
        kind, recorded = kinds.mjSTATE_INTEGRATION, kinds.mjSTATE_PHYSICS | kinds.mjSTATE_TIME
        size = self._mujoco.mj_stateSize(self._model, kind)
        sizes = [len(memory) for memory in self._memories()]
        short = self._mujoco.mj_stateSize(self._model, recorded)
        if state.shape not in ((size + sum(sizes),), (short,)):
            raise SpecMismatch(
                f"A state of {self.config.task} is [{size + sum(sizes)}], "
                f"or [{short}] as robosuite records it; got {list(state.shape)}."
            )
        begins = len(state) == short
        values = np.ascontiguousarray(state[: short if begins else size], np.float64)
        self._mujoco.mj_setState(self._model, self._data, values, recorded if begins else kind)
        self._ready = True
        if not begins:
            control, placed, observed = np.split(state[size:], np.cumsum(sizes)[:2])
            self._control.memory = control
            poses = placed.reshape(-1, 7)
            self._model.body_pos[self._placed], self._model.body_quat[self._placed] = np.split(poses, [3], 1)
        self._mujoco.mj_kinematics(self._model, self._data)
        if begins:
            self._control.begin(reset=False)
        if self._stock is not None:
            if begins:
                self._stock.begin()
            else:
                self._stock.memory = observed
        return self._observe()

    def close(self) -> None:
        """Free the OpenGL context, if there is one."""
        self._renderer.close()

    def _observe(self) -> Observation:
        found = self._end.read() if self._stock is None else self._stock.read()
        for camera in self.task.cameras:
            found[f"{camera}_image"] = self.render_frame(camera, self.task.image_size)
        return found

    def _reward(self, action: np.ndarray, success: bool) -> float:
        # robosuite's rewards ask once more, which takes as long as observing does.
        self._suite._check_success = lambda: success
        try:
            return float(self._suite.reward(action))
        finally:
            del self._suite._check_success

    def _factor(self, level: float) -> float:
        """How many times robosuite's range of placement a level of "object_range" is."""
        factor, widest = self.config.placement * (1.0 + level), TASKS[self.config.task].widest
        if factor > widest:
            highest = math.floor(100 * (widest / self.config.placement - 1)) / 100
            raise ConfigError(
                f"{self.config.task} has room for object_range up to {highest:g}, got {level:g}."
            )
        return factor

    def _memories(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        model, placed = self._model, self._placed
        poses = np.concatenate([model.body_pos[placed], model.body_quat[placed]], axis=1).ravel()
        return self._control.memory, poses, np.zeros(0) if self._stock is None else self._stock.memory


def _controller(config: RobosuiteConfig, suite: Any) -> dict[str, Any]:
    """robosuite's settings of one robot's controllers."""
    settings: dict[str, Any] = suite.load_composite_controller_config(robot=config.robot)
    arm = settings["body_parts"]["right"]
    if config.controller == "absolute":
        arm.update(input_type="absolute", input_ref_frame="world")
    elif config.controller == "joint_delta":
        joints = suite.load_part_controller_config(default_controller="JOINT_POSITION")
        settings["body_parts"]["right"] = {**joints, "gripper": arm["gripper"]}
    return settings


@functools.cache
def _import_robosuite() -> tuple[Any, Any]:
    # robosuite warns about optional extras on import, and sets MUJOCO_GL for the whole process.
    before = os.environ.get("MUJOCO_GL")
    logging.disable(logging.WARNING)
    try:
        import mujoco
        import robosuite
    except ImportError as error:
        raise RobopolicyError(f"This task needs robosuite 1.5 and mujoco < 3.10: {error}") from error
    finally:
        logging.disable(logging.NOTSET)
        if before is None:
            os.environ.pop("MUJOCO_GL", None)
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    return mujoco, robosuite
